"""`gradexplain check`: is a hand-written backward right, and if not, what exactly is wrong.

claim (formula) ──claims────┐
operation (code) ──operation┤ subjects, code, setting: the forward as a graph, the backward as a
                            │ linear map in v; differences where autograd does not see through it
                            ▼
   points ──▶ making, trials: J in closed form, J as PyTorch has it, J as the claim implements it
                            ▼
   faults ── outcomes: what came back, before J can be spoken of
          ── jacobian: rewrites of the true J that the claim may implement
          ── edits: rewrites of the user's own source or claim (rules) at its places, run on a
             bench (code) or a formula_bench
                            ▼
     CheckReport (plain data, faults by codes) ──▶ pages/check, JSON, annotations
"""
