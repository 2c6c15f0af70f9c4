import torch
import torch.nn as nn

torch.manual_seed(0)
net = nn.Sequential(nn.Linear(8, 16), nn.ReLU(), nn.Linear(16, 1))
opt = torch.optim.SGD(net.parameters(), lr=0.001)
scaler = torch.amp.GradScaler("cpu")
sched = torch.optim.lr_scheduler.CosineAnnealingLR(opt, 4)
k = 2
for epoch in range(4):
    for i in range(4):
        with torch.autocast("cpu", dtype=torch.bfloat16):
            loss = nn.functional.mse_loss(net(torch.randn(4, 8)).float(), torch.randn(4, 1)) / k
        scaler.scale(loss).backward()
        if (i + 1) % k == 0:
            scaler.unscale_(opt)
            torch.nn.utils.clip_grad_norm_(net.parameters(), 0.1)
            scaler.step(opt)
            scaler.update()
            opt.zero_grad()
    sched.step()
    print(epoch, loss.item())
