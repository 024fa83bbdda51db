"""The horizontal split: which tier computes each layer.

`problem` says what is asked and what a partition is; `latency` evaluates one, `demand` weighs its bytes, `allowed` says
what pins and missing tiers leave. `select` offers the algorithms behind one signature: `exact` (minimum cuts, on
`crossings`, `flow`, `blocks`, `contract` and `settle`), `budgets` (an integer program, on `program`) and `heuristic`
(HPA). `explain` says why a plan is as it is. Nothing here reads models or measures time.
"""
