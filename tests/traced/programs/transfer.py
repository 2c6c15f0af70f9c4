import torch
from torch import nn

torch.manual_seed(0)


class Net(nn.Module):
    def __init__(self):
        super().__init__()
        self.features = nn.Sequential(nn.Linear(6, 8), nn.ReLU())
        self.fc = nn.Linear(8, 3)

    def forward(self, x):
        return self.fc(self.features(x))


model = Net()
for param in model.parameters():
    param.requires_grad = False
model.fc = nn.Linear(8, 2)
opt = torch.optim.SGD(model.fc.parameters(), lr=0.001, momentum=0.9)
for step in range(3):
    opt.zero_grad()
    outputs = model(torch.randn(4, 6))
    _, preds = torch.max(outputs, 1)
    loss = nn.CrossEntropyLoss()(outputs, torch.randint(0, 2, (4,)))
    loss.backward()
    opt.step()
