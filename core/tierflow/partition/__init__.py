"""The horizontal split: which tier computes each layer.

`problem` says what is asked and what a partition is; `latency` evaluates one; `exact` (minimum cut), `budgets`
(integer program) and `heuristic` (HPA) find one; `select` offers them behind one signature; `explain` says why.
Nothing here reads models or measures time.
"""
