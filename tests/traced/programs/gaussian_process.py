import torch

torch.manual_seed(0)
x, y = torch.linspace(0, 1, 6), torch.sin(torch.linspace(0, 6, 6))
log_l, log_s, log_n = (torch.zeros((), requires_grad=True) for _ in range(3))
opt = torch.optim.Adam([log_l, log_s, log_n], lr=0.05)
for step in range(2):
    opt.zero_grad()
    d = (x.unsqueeze(1) - x.unsqueeze(0)) / log_l.exp()
    K = log_s.exp() * torch.exp(-0.5 * d**2) + (log_n.exp() + 1e-3) * torch.eye(6)
    L = torch.linalg.cholesky(K)
    alpha = torch.cholesky_solve(y.unsqueeze(1), L)
    loss = 0.5 * (y.unsqueeze(1) * alpha).sum() + L.diagonal().log().sum()
    loss.backward()
    opt.step()
