"""`gradexplain check`: is a hand-written backward right, and if not, what exactly is wrong.

claim (formula) ──claims──┐
Function (code) ──code────┤ subjects: the forward as a graph, the backward as a linear map in v
                          ▼
   points ──▶ trials: J in closed form, J as PyTorch has it, J as the claim implements it
                          ▼
   faults: the simplest fault that explains every trial; repairs: the edit that makes it right
                          ▼
                 CheckReport (plain data) ──▶ render/check_text, render/check_json
"""
