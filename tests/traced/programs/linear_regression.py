import torch

torch.manual_seed(0)
x = torch.linspace(-3, 3, 50)
y = torch.sin(x)
a = torch.randn((), requires_grad=True)
b = torch.randn((), requires_grad=True)
c = torch.randn((), requires_grad=True)
for t in range(5):
    y_pred = a + b * x + c * x**2
    loss = (y_pred - y).pow(2).sum()
    loss.backward()
    with torch.no_grad():
        a -= 1e-4 * a.grad
        b -= 1e-4 * b.grad
        c -= 1e-4 * c.grad
        a.grad = None
        b.grad = None
        c.grad = None
