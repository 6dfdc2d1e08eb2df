"""The benchmark of Placet; `tests/bench/run` starts it."""
