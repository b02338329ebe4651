"""Training sets of more rows than fit in memory: the set of ``build_dataset``, written slab by slab to a folder.

manifest = stream_dataset("train", store, "fraud_v1", start, end, as_of=as_of, maturity=timedelta(days=7))
for batch in pyarrow.dataset.dataset("train").to_batches(): ...
Dataset.from_parquet("train")  # all of it, where it fits
"""

import json
from collections.abc import Callable, Mapping
from contextlib import nullcontext
from datetime import datetime, timedelta
from pathlib import Path
from typing import Any

from feature_repo.windows.parts import PartWriter
from feature_repo.windows.progress import shown
from feature_repo.windows.sources import pinned
from feature_repo.windows.stream import FeatureStream, RowsThatAsk, question_of
from training.dataset import ENTITY_COLUMNS, MANIFEST, Recipe, arranged, frauds_in
from training.digest import ContentDigest
from training.labels import with_known_timestamp

__all__ = ["stream_dataset"]


def stream_dataset(
    path: Path | str,
    store: Any,
    feature_service: str,
    start: datetime,
    end: datetime,
    *,
    as_of: datetime,
    maturity: timedelta,
    lake: Path | None = None,
    versions: Mapping[str, int] | None = None,
    keep_unlabelled: bool = False,
    progress: Callable[[int, int], None] | None = None,
) -> dict[str, Any]:
    """Write the set to Parquet files in a folder, in order of time, with its manifest beside them; returns the manifest.

    Columns, rows and digest are those of ``build_dataset`` with the same arguments, so ``rebuild`` makes the set again. Memory
    stays bounded by the offline store's ``memory_limit``. The folder appears under its name when it is complete.

    Args:
        progress: told the rows done, and all of them; None: a bar, where there is someone to see it.

    Raises:
        ValueError: see ``build_dataset``. FileExistsError: something is at ``path``.
    """
    recipe = Recipe.of(
        store, feature_service, start, end, as_of=as_of, maturity=maturity, lake=lake, versions=versions,
        keep_unlabelled=keep_unlabelled,
    )  # fmt: skip
    rows = RowsThatAsk(
        f"({recipe.sql})", "event_timestamp", "created_timestamp", [*ENTITY_COLUMNS, "label", "label_known_us"],
        order=["transaction_id"],
    )  # fmt: skip
    question = question_of(store, store.get_feature_service(feature_service))
    digest, frauds = ContentDigest(), 0
    telling = nullcontext(progress) if progress else shown("rows")
    with pinned(recipe.versions), PartWriter(Path(path), {}) as writer, telling as told:
        for answer in FeatureStream(question, rows).tables(told):
            table = arranged(answer, with_known_timestamp(answer), recipe.feature_names)
            digest.update(table)
            frauds += frauds_in(table)
            writer.write(table)
            del answer, table
        if not writer.rows:
            recipe.refuse_no_rows()
        manifest = recipe.manifest(writer.rows, frauds, digest.text())
        writer.add(MANIFEST, json.dumps(manifest, indent=2))
    return manifest
