"""Train a small network on 8x8 digits with the loop in plain sight.

python demos/first_steps.py
"""

import numpy as np

import nnkernels as nnk
import nnkernels.nn.functional as F
from nnkernels import data, nn, optim

rng = np.random.default_rng(0)
digits = data.digits_8x8(rng)  # 1500 to train on, 297 held out
model = nn.Sequential(
    nn.Conv2d(1, 8, kernel_size=3, padding=1, rng=rng),
    nn.ReLU(),
    nn.MaxPool2d(2),
    nn.Flatten(),
    nn.Linear(8 * 4 * 4, 10, rng=rng),
)
optimizer = optim.Adam(model.parameters(), lr=0.01)

for epoch in range(5):
    for x, y in data.Batches(digits.x_train, digits.y_train, 64, shuffle=True, rng=rng):
        loss = F.cross_entropy(model(x), y)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    with nnk.no_grad():
        predicted = model(digits.x_test).data.argmax(axis=1)
    accuracy = (predicted == digits.y_test).mean()
    print(f"epoch {epoch + 1}: loss {loss.item():.3f}, {accuracy:.1%} of the held-out digits right")

with nnk.use_backend("loops"):  # the same network, every layer as plain nested loops
    assert (model(digits.x_test).data.argmax(axis=1) == predicted).all()
