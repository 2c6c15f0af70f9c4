"""A loop in a function, with a class around the model."""

import torch
from torch import nn


class Trainer:
    def __init__(self):
        self.model = nn.Linear(2, 1)
        self.opt = torch.optim.SGD(self.model.parameters(), lr=0.01, momentum=0.9)

    def step(self, x, y):
        self.opt.zero_grad()
        error = self.model(x) - y
        loss = error.square().mean()
        loss.backward()
        self.opt.step()
        return loss.item()


torch.manual_seed(0)
trainer = Trainer()
for _ in range(5):
    value = trainer.step(torch.ones(3, 2), torch.zeros(3, 1))
