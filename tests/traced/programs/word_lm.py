import torch
import torch.nn.functional as F
from torch import nn

torch.manual_seed(0)
ntoken, ninp = 9, 6
emb, dec = nn.Embedding(ntoken, ninp), nn.Linear(ninp, ntoken)
layer = nn.TransformerEncoderLayer(ninp, 2, 8, dropout=0.1)
encoder = nn.TransformerEncoder(layer, 1, enable_nested_tensor=False)
params = [*emb.parameters(), *encoder.parameters(), *dec.parameters()]
mask = nn.Transformer.generate_square_subsequent_mask(4)
for step in range(2):
    data = torch.randint(0, ntoken, (5, 2))
    for p in params:
        p.grad = None
    out = encoder(emb(data[:-1]) * ninp**0.5, mask=mask)
    loss = F.nll_loss(F.log_softmax(dec(out), dim=-1).view(-1, ntoken), data[1:].reshape(-1))
    loss.backward()
    torch.nn.utils.clip_grad_norm_(params, 0.25)
    for p in params:
        p.data.add_(p.grad, alpha=-5.0)
