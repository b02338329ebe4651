"""Put each fault into a copy of the kernel, run the kernel's tests on it, and list which were noticed.

Given names of the kernel's functions, only their faults. Writes ``build/mutants.json``; exit code 1 if a fault that changes
answers went unnoticed, or one that does not was noticed.
"""

import json
import os
import re
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path

from rich.console import Console
from rich.progress import track

from tests.mutants.faults import FAULTS, Fault

ROOT = Path(__file__).resolve().parents[2]
KERNEL = Path("feature_repo/windows/kernel.py")
TESTS = ["tests/test_windows_kernel.py", "tests/test_windows_blocks.py", "tests/test_windows_oracle.py"]
PLAIN_LIMIT_S = 90
# A fault may make a loop endless; without one, the tests take a tenth of this.
COMPILED_LIMIT_S = 1200


def faulty(source: str, fault: Fault) -> str:
    """The kernel's text with the fault.

    Raises:
        ValueError: what the fault replaces does not stand exactly once in its function.
    """
    found = re.search(rf"^def {fault.at}\(.*?(?=^@njit|\Z)", source, re.MULTILINE | re.DOTALL)
    body = found.group() if found else ""
    if body.count(fault.was) != 1:
        raise ValueError(f"{fault.name}: stands {body.count(fault.was)} times; name a part that stands once")
    return source.replace(body, body.replace(fault.was, fault.is_now))


def fails(tree: Path, limit_s: float, *options: str, **variables: str) -> bool | None:
    """Whether a test fails on a tree, from a cold compiler; None if none did in the time."""
    plugins = ["-p", "no:cacheprovider", "-p", "tests.mutants.quick", "--hypothesis-profile", "quick"]
    command = [sys.executable, "-m", "pytest", "-q", "-x", *plugins, *options, *TESTS]
    with tempfile.TemporaryDirectory() as cache:
        own = {"PYTHONPATH": str(tree), "NUMBA_CACHE_DIR": cache, **variables}
        try:
            done = subprocess.run(
                command, cwd=tree, env=os.environ | own, capture_output=True, check=False, timeout=limit_s
            )
        except subprocess.TimeoutExpired:
            return None
    return done.returncode != 0


def noticed_in(tree: Path) -> bool:
    """Whether the tests notice what is wrong with a tree.

    The kernel runs as plain Python first: where a quick test fails, that spares the compiler's half a minute.
    """
    # Plain numpy warns of what wraps around; the long key takes it too long.
    plain = ["-W", "ignore::RuntimeWarning", "-k", "not ten_thousand"]
    if fails(tree, PLAIN_LIMIT_S, *plain, NUMBA_DISABLE_JIT="1"):
        return True
    return fails(tree, COMPILED_LIMIT_S) is not False


def _write(results: list[dict[str, object]]) -> None:
    """What is known so far: a run takes long, and may be ended."""
    build = ROOT / "build"
    build.mkdir(exist_ok=True)
    (build / "mutants.json").write_text(json.dumps(results, indent=1) + "\n", encoding="utf-8")


def main(functions: Sequence[str]) -> int:
    """Try every fault, or those in some functions."""
    console = Console()
    faults = [fault for fault in FAULTS if not functions or fault.at in functions]
    source = (ROOT / KERNEL).read_text(encoding="utf-8")
    texts = [faulty(source, fault) for fault in faults]
    results = []
    with tempfile.TemporaryDirectory() as folder:
        tree = Path(folder)
        for part in ("feature_repo", "tests", "pyproject.toml"):
            copy = shutil.copytree if (ROOT / part).is_dir() else shutil.copy
            copy(ROOT / part, tree / part)
        if noticed_in(tree):
            console.print("The tests fail without any fault; mend that first.")
            return 1
        for fault, text in track(list(zip(faults, texts, strict=True)), "faults", console=console):
            (tree / KERNEL).write_text(text, encoding="utf-8")
            noticed = noticed_in(tree)
            good = noticed != bool(fault.why)
            results.append({"fault": fault.name, "noticed": noticed, "expected": good, "why": fault.why})
            said = "noticed" if noticed else f"changes no answer: {fault.why}" if fault.why else "NOT NOTICED"
            console.print(f"{said:<12} {fault.name}", highlight=False, markup=False)
            _write(results)
    bad = [result for result in results if not result["expected"]]
    console.print(
        f"{len(results)} faults, {sum(r['noticed'] for r in results)} noticed, {len(bad)} not as expected"
    )
    return 1 if bad else 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
