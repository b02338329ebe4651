"""Benchmarks: ratios measured side by side in one run. ``make bench``, ``make bench ONLY=name``; pytest runs none of them.

Each benchmark is a module with ``run(bench)`` and runs in a process of its own (``__main__``); ``catalogue`` lists them.
"""
