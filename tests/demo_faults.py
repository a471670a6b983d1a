"""Faults planted in demos, (why, old, new): with the new text for the old, the claim must fail."""

FAULTS = {
    "two_gaussians": [
        (
            "the prior is forgotten in Bayes' rule",
            "return ratio + np.log(prior / (1 - prior))",
            "return ratio",
        ),
        (
            "the fit ignores which class a point is of",
            "targets = y[:, None].astype(np.float64)",
            "targets = 1.0 - y[:, None]",
        ),
    ],
    "logistic_unit": [
        (
            "the sigmoid is computed as a quotient that overflows",
            "found, truth = F.sigmoid(wide), stable_sigmoid(wide)",
            'with np.errstate(all="ignore"):\n    found, truth = np.exp(wide) / (1 + np.exp(wide)), stable_sigmoid(wide)',
        ),
        (
            "the slope lacks the factor 1 - σ",
            "np.abs(s * (1 - s) - measured)",
            "np.abs(s - measured)",
        ),
        (
            "the hand-derived gradient forgets the inputs",
            "np.array([x1.data, x2.data, 1.0])",
            "np.ones(3)",
        ),
    ],
    "cross_entropy": [
        (
            "the loss takes probabilities in place of logits",
            'return F.binary_cross_entropy_with_logits(z, y, reduction="none")',
            'return F.binary_cross_entropy(F.sigmoid(z), y, reduction="none")',
        ),
        (
            "the clamp is left out",
            'return F.binary_cross_entropy(F.sigmoid(z), y, reduction="none")',
            "return of_probabilities(z, y)",
        ),
    ],
    "regularisation_paths": [
        (
            "the L1 penalty is dropped",
            'return {"after_step": optim.L1(strength)}',
            "return {}",
        ),
        (
            "L1 goes into the loss, where gradient steps jump over 0",
            'return {"after_step": optim.L1(strength)}',
            'return {"penalty": optim.L1(strength)}',
        ),
        (
            "L2 at half its strength",
            'return {"penalty": optim.L2(strength)}\n',
            'return {"penalty": optim.L2(strength / 2)}\n',
        ),
    ],
    "steepest_descent": [
        (
            "the gradient is that of the sum, not of the mean",
            "gradient = nnk.grad(loss)(theta, x, y)",
            "gradient = nnk.grad(loss)(theta, x, y) * N",
        ),
        (
            "random directions are not of length 1",
            "random = [unit(demo.rng.standard_normal(D))",
            "random = [(demo.rng.standard_normal(D))",
        ),
        (
            "the step goes up the gradient",
            "path[-1] - rate * slope",
            "path[-1] + rate * slope",
        ),
    ],
    "mini_batches": [
        (
            "the short last batch counts as much as the others",
            "mean = (sizes[:, None] * estimates).sum(axis=0) / N",
            "mean = estimates.mean(axis=0)",
        ),
        (
            "the short last batch is dropped",
            "data.Batches(x, y, B, shuffle=True, rng=demo.rng))",
            "data.Batches(x, y, B, shuffle=True, rng=demo.rng, drop_last=True))",
        ),
        (
            "the gradients of a batch are added up, not averaged",
            "loss = 0.5 * F.mse_loss(model(x), y)",
            'loss = 0.5 * F.mse_loss(model(x), y, reduction="sum")',
        ),
        (
            "the batches hold all samples",
            "few = descend(N, best_rate, 30), descend(B, best_rate / 2, 1000)",
            "few = descend(N, best_rate, 30), descend(N, best_rate / 2, 1000)",
        ),
    ],
    "optimizers": [
        (
            "Adam's means are not corrected for their start at 0",
            "mean, mean_square = m / (1 - 0.9**t), s / (1 - 0.999**t)",
            "mean, mean_square = m, s",
        ),
        (
            "the gradient is averaged into the velocity, not added",
            "v = 0.9 * v + k * by_momentum[-1]",
            "v = 0.9 * v + 0.1 * k * by_momentum[-1]",
        ),
        (
            "momentum is left out",
            "optim.SGD(p, lr=1 / k[1], momentum=0.9),",
            "optim.SGD(p, lr=1 / k[1], momentum=0.0),",
        ),
        (
            "there is no ravine",
            "k = np.array([1.0, 300.0])",
            "k = np.array([1.0, 3.0])",
        ),
    ],
    "learning_rates": [
        (
            "the half before the squared error is forgotten",
            "loss = 0.5 * F.mse_loss(model(X), y)",
            "loss = F.mse_loss(model(X), y)",
        ),
        (
            "the smallest curvature is taken for the largest",
            "limit, best = 2 / largest, 2 /",
            "limit, best = 2 / smallest, 2 /",
        ),
        (
            "no division by N",
            "np.linalg.eigvalsh(X.T @ X / N)",
            "np.linalg.eigvalsh(X.T @ X)",
        ),
        (
            "the rate that should be too large is not",
            '"too large": 3.0',
            '"too large": 0.05',
        ),
    ],
    "logistic_regression": [
        (
            "the penalty is dropped",
            "loss = F.binary_cross_entropy_with_logits(model(x), y) + penalty([model.weight])",
            "loss = F.binary_cross_entropy_with_logits(model(x), y)",
        ),
        (
            "the penalty is not divided by the number of samples",
            "penalty = optim.L2(strength)",
            "penalty = optim.L2(1 / C)",
        ),
        (
            "the bias is penalised, too",
            "penalty([model.weight])",
            "penalty([model.weight, model.bias])",
        ),
        (
            "the squared error of probabilities in the place of the cross-entropy",
            "F.binary_cross_entropy_with_logits(model(x), y)",
            "F.mse_loss(F.sigmoid(model(x)), y)",
        ),
    ],
    "basis_functions": [
        (
            "the root of 2 is forgotten",
            "2**0.5 * x[:, 0] * x[:, 1]",
            "x[:, 0] * x[:, 1]",
        ),
        (
            "the map is of the first degree",
            '"on φ(x)": fit(phi, linear(3, 1)),',
            '"on φ(x)": fit(linear(2, 3), linear(3, 1)),',
        ),
        (
            "the hidden layer is linear",
            "nn.Tanh()",
            "nn.Identity()",
        ),
        (
            "both classes fill the disc",
            "demo.rng.uniform(2, 4, count)",
            "demo.rng.uniform(0, 4, count)",
        ),
    ],
    "one_hidden_layer": [
        (
            "S11: a hidden layer without its sigmoid is a linear model",
            "phi[j] = sigmoid(a)",
            "phi[j] = a",
        ),
        (
            "S11: no threshold: x_0 = 0",
            "np.stack([np.ones(count), radius",
            "np.stack([np.zeros(count), radius",
        ),
        (
            "S12: class 0 left out of cross-entropy's slope",
            "-y[i] * (1 - p) + (1 - y[i]) * p if",
            "-y[i] * (1 - p) if",
        ),
        (
            "S12: the half is missing from the squared error",
            "return 0.5 * ((y - h) ** 2).sum()",
            "return ((y - h) ** 2).sum()",
        ),
        (
            "S13: w_j forgotten in the chain rule for u_j",
            "dL_dh * w[j] * phi[j] * (1 - phi[j])",
            "dL_dh * phi[j] * (1 - phi[j])",
        ),
        (
            "S13: sigma's slope without its second factor",
            "w[j] * phi[j] * (1 - phi[j]) * x",
            "w[j] * phi[j] * x",
        ),
    ],
    "automatic_differentiation": [
        (
            "S14: the product rule loses a term",
            "dw3 = dw1 * w2 + w1 * dw2",
            "dw3 = dw1 * w2",
        ),
        (
            "S14: only one of two paths is followed back",
            "dz_dw3 * w2 + dz_dw4 * math.cos(w1)",
            "dz_dw3 * w2",
        ),
        (
            "S14: rows of the Jacobian in the wrong order",
            "for e in np.eye(len(y))], axis=0)",
            "for e in np.eye(len(y))], axis=0)[::-1]",
        ),
        (
            "S14: forward mode for a loss of many inputs, too",
            '("reverse", by_rows)',
            '("reverse", by_columns)',
        ),
    ],
    "backprop": [
        (
            "S15: tanh's slope is left out on the way back",
            "delta = dy if y is values[-1] else dy * (1 - y**2)",
            "delta = dy",
        ),
        (
            "S15: the gradient at the input keeps the last term instead of the sum",
            "dx[c] += delta[k] * W[k, c]",
            "dx[c] = delta[k] * W[k, c]",
        ),
        (
            "S15: b-prop uses the layer's output where f-prop kept its input",
            "dW[k, c] = delta[k] * x[c]",
            "dW[k, c] = delta[k] * y[k]",
        ),
        (
            "S15: steps along the gradient instead of against it",
            "parameter -= 0.1 * gradient",
            "parameter += 0.001 * gradient",
        ),
    ],
    "early_stopping": [
        (
            "S16: validated on the training part itself",
            "validation = digits.x_test[:800], digits.y_test[:800]",
            "validation = x, y",
        ),
        (
            "S16: the last weights are taken for the best",
            "restored = train.evaluate(stopped, *validation).loss",
            "restored = train.evaluate(to_the_end, *validation).loss",
        ),
        (
            "S16: the restored weights are trained on",
            "stopped, short = trained(patience=15)",
            "stopped, short = trained(patience=15)\ntrain.fit(stopped, (x, y), optimizer=optim.SGD(stopped.parameters(), lr=0.1), epochs=1)",
        ),
        (
            "S16: a patience that never runs out",
            "stopped, short = trained(patience=15)",
            "stopped, short = trained(patience=epochs)",
        ),
        (
            "S16: steps so small that nothing is over-trained",
            "lr=0.003",
            "lr=0.0001",
        ),
    ],
    "vanishing_gradients": [
        (
            "He's weights without the factor 2 that ReLU needs",
            '"He": 2 / n',
            '"He": 1 / n',
        ),
        (
            "another activation than the sigmoid is measured",
            '"sigmoid": F.sigmoid',
            '"sigmoid": F.tanh',
        ),
        (
            "Glorot's variance 2 / (n + n) without its 2",
            '"Glorot": 1 / n',
            '"Glorot": 1 / (2 * n)',
        ),
    ],
    "activations": [
        (
            "the slope of leaky ReLU is left at its default",
            "lambda x: F.leaky_relu(x, slope)",
            "F.leaky_relu",
        ),
        (
            "a kink among the points",
            "x = x[np.abs(x) > 1e-3]",
            "x = np.append(x, 0.0)",
        ),
        (
            "GELU without its product rule",
            "Phi(x) + x * bell(x)",
            "Phi(x)",
        ),
        (
            "one-sided distance in the central difference",
            "/ (2 * h)",
            "/ h",
        ),
    ],
    "decision_boundaries": [
        (
            "no ReLU between the layers",
            '"with ReLU": nn.ReLU',
            '"with ReLU": nn.Identity',
        ),
        (
            "the regulariser is dropped",
            "+ penalty(model.parameters())",
            "",
        ),
    ],
    "universal_approximation": [
        (
            "the hidden units have no activation: the sum is a line",
            "model = network(activation, demo.rng",
            "model = network(nn.Identity, demo.rng",
        ),
        (
            "the construction takes the slopes, not their changes",
            "model[2].weight.data[0] = np.diff(slopes, prepend=0.0)",
            "model[2].weight.data[0] = slopes",
        ),
        (
            "the network never learns: no step of the optimizer",
            "        optimizer.step()\n",
            "",
        ),
    ],
    "depth_and_width": [
        (
            "the tents after the first are too low: the next one never folds them",
            "linear([[2, -4], [2, -4]], [0, -0.5])",
            "linear([[1, -2], [1, -2]], [0, -0.5])",
        ),
        (
            "the first unit has no ReLU before the next tent: the chain is linear",
            "[0, -0.5]), nn.ReLU()]\n    return",
            "[0, -0.5])]\n    return",
        ),
        (
            "the shallow network has three times the units, which is no equal budget",
            "shallow(np.arange(n) / 2**k)",
            "shallow(np.arange(3 * n) / 2**k)",
        ),
        (
            "the sawtooth to be followed has half the teeth",
            "(2 ** (k - 1) * x % 1)",
            "(2 ** (k - 2) * x % 1)",
        ),
    ],
    "double_descent": [
        (
            "a ridge is added: no weights blow up at the threshold",
            "return h.T @ np.linalg.solve(h @ h.T, y)",
            "return h.T @ np.linalg.solve(h @ h.T + 0.1 * np.eye(N), y)",
        ),
        (
            "beyond the threshold not the shortest weights: only the first N features are used",
            "return h.T @ np.linalg.solve(h @ h.T, y)",
            "return np.append(np.linalg.solve(h[:, :N], y), np.zeros(M - N))",
        ),
        (
            "the fit sees the test points too: no threshold at N",
            "a = least_squares(h[:N], y[:N])",
            "a = least_squares(h, y)",
        ),
    ],
    "controlled_amplitudes": [
        (
            "no normalisation",
            "phi(norm(h @ W.data.T))",
            "phi(h @ W.data.T)",
        ),
        (
            "Glorot's weights for ReLU",
            "nn.init.he_normal_(W",
            "nn.init.glorot_normal_(W",
        ),
        (
            "the limit is twice as large",
            "max_norm=1.0",
            "max_norm=2.0",
        ),
    ],
    "convolution_1d": [
        (
            "the kernel is flipped, as in signal processing",
            "y[i] += x[i + b] * u[b]",
            "y[i] += x[i + b] * u[k - 1 - b]",
        ),
        (
            "the loop forgets the dilation",
            "at = stride * i + dilation * b - padding",
            "at = stride * i + b - padding",
        ),
        (
            "the template is searched for flipped",
            "u[None, None, :])[:, 0]",
            "u[None, None, ::-1])[:, 0]",
        ),
    ],
    "image_filters": [
        (
            "the filter for red does not take away blue",
            "([1, -0.5, -0.5], box)",
            "([1, -0.5, 0], box)",
        ),
        (
            "the reference forgets all channels but one",
            "products.sum(axis=1)",
            "products[:, 0]",
        ),
        (
            "the reference flips its kernels",
            "np.conj(np.fft.rfft2(u, s=(H, W)))",
            "np.fft.rfft2(u, s=(H, W))",
        ),
    ],
    "stride_and_padding": [
        (
            "the formula counts the padding on one side only",
            "return (H + 2 * p - d",
            "return (H + p - d",
        ),
        (
            "the loop forgets that the padding shifts the window",
            "h, w = s * i + d * n - p, s * j + d * m - p",
            "h, w = s * i + d * n, s * j + d * m",
        ),
        (
            "the transposed convolution flips the kernel",
            "F.conv_transpose2d(y, w, ",
            "F.conv_transpose2d(y, w[..., ::-1, ::-1], ",
        ),
    ],
    "parameter_sharing": [
        (
            "the weights are not shared",
            "F.conv2d(x[:, None], sobel[None, None])",
            "F.linear(x.reshape(2, -1), unshared(A))",
        ),
        (
            "the outputs are compared in the wrong direction",
            "y[0, :-down, :-right], y[1, down:, right:]",
            "y[0, down:, right:], y[1, :-down, :-right]",
        ),
        (
            "the matrix is transposed",
            ".reshape(size * size, -1).T.copy()",
            ".reshape(-1, size * size).copy()",
        ),
    ],
    "pooling": [
        (
            "windows of one pixel",
            "lambda maps: F.max_pool2d(maps, 4)",
            "lambda maps: F.max_pool2d(maps, 1)",
        ),
        (
            "numbers leave their windows",
            "shuffle_windows(x, 4)",
            "shuffle_windows(x, 5)",
        ),
    ],
    "lenet": [
        (
            "the optimizer is given the last layer alone",
            "optim.Adam(model.parameters(), lr=0.003)",
            "optim.Adam(model.fc3.parameters(), lr=0.003)",
        ),
        (
            "labels of other digits than the images",
            "digits.x_train[:count], digits.y_train[:count]",
            "digits.x_train[:count], digits.y_train[-count:]",
        ),
        (
            "the bias of a filter is not counted",
            "parameters = K * (C * R * S + 1)",
            "parameters = K * C * R * S",
        ),
    ],
    "residual_networks": [
        (
            "the skip is forgotten",
            "x + y if self.skip else y",
            "y",
        ),
        (
            "the plain stack has skips, too",
            "x + y if self.skip else y",
            "x + y",
        ),
        (
            "He's weights where the default ones are meant",
            "def gradient_norm(blocks, skip, he=False)",
            "def gradient_norm(blocks, skip, he=True)",
        ),
        (
            "the stacks that are trained have no skips",
            "model = stack(blocks, skip, he)\n    optimizer",
            "model = stack(blocks, False, he)\n    optimizer",
        ),
    ],
    "softmax": [
        (
            "the logarithm of a softmax that has underflowed",
            "value = F.cross_entropy(logits, target)",
            "value = F.nll_loss(F.softmax(logits).log(), labels)",
        ),
        (
            "the gradient of the sum where the loss is a mean",
            "(np.exp(log_p) - y) / N",
            "np.exp(log_p) - y",
        ),
        (
            "the difference of the scores the wrong way round",
            "F.sigmoid(z[:, 1] - z[:, 0])",
            "F.sigmoid(z[:, 0] - z[:, 1])",
        ),
        (
            "softmax twice: the loss is given probabilities",
            "loss=F.cross_entropy,",
            "loss=lambda z, y: F.cross_entropy(F.softmax(z), y),",
        ),
    ],
    "data_dependent_depth": [
        (
            "the branch is lost: all letters use one block",
            "s = s + getattr(self, letter)(s)",
            "s = s + self.a(s)",
        ),
        (
            "the depth is fixed: the loop ends after four letters",
            "        for letter in word:\n            s = s + getattr",
            "        for letter in word[:4]:\n            s = s + getattr",
        ),
        (
            "the optimizer is given the parameters of one block only",
            "optim.Adam(model.parameters(), lr=0.01)",
            "optim.Adam(model.a.parameters(), lr=0.01)",
        ),
    ],
    "four_bodies": [
        (
            "the filter is turned round, a convolution in place of the library's correlation",
            "total += x[n, c, h, v] * w[k, c, r, s]",
            "total += x[n, c, h, v] * w[k, c, R - 1 - r, S - 1 - s]",
        ),
        (
            "the padding shifts nothing",
            "h, v = p + r - padding, q + s - padding",
            "h, v = p + r, q + s",
        ),
        (
            "one channel too few is summed",
            "for c in range(C):",
            "for c in range(1, C):",
        ),
        (
            "whatever body is asked for, loops are timed",
            "with nnk.use_backend(body):",
            'with nnk.use_backend("loops"):',
        ),
    ],
    "loop_nest": [
        (
            "the filter is turned round",
            "* w[k, c, r, s]\n                                yield",
            "* w[k, c, R - 1 - r, S - 1 - s]\n                                yield",
        ),
        (
            "the total runs on from one element to the next",
            "            for p in range(P):\n                for q in range(Q):\n                    total = 0\n",
            "            total = 0\n            for p in range(P):\n                for q in range(Q):\n",
        ),
        (
            "the last column of the filter is left out",
            "                            for s in range(S):\n                                total",
            "                            for s in range(S - 1):\n                                total",
        ),
        (
            "products with a weight of 0 are left out",
            "                                total += x[n, c, p + r, q + s]",
            "                                if w[k, c, r, s] == 0:\n                                    continue\n                                total += x[n, c, p + r, q + s]",
        ),
    ],
    "what_layers_see": [
        (
            "the shares are those of another class",
            "integrated_gradients(model, sample, labels, steps=16)",
            "integrated_gradients(model, sample, (labels + 1) % 10, steps=16)",
        ),
        (
            "the ascent is given up after one step",
            '"steps": steps,',
            '"steps": 1,',
        ),
        (
            "each page is shown to another channel",
            'visualize.deconvnet(convolutions, pages, "2", units)',
            'visualize.deconvnet(convolutions, pages, "2", np.roll(units, 1))',
        ),
        (
            "rows and columns of the pages are mixed up",
            "tiles.reshape(3, 3, 28, 28).transpose(0, 2, 1, 3)",
            "tiles.reshape(3, 3, 28, 28).transpose(1, 2, 0, 3)",
        ),
    ],
    "where_networks_look": [
        (
            "Grad-CAM is asked for another class",
            '"Grad-CAM": visualize.grad_cam(model, pictures, "4", targets)',
            '"Grad-CAM": visualize.grad_cam(model, pictures, "4", (targets + 1) % 3)',
        ),
        (
            "the first network learns patches of one colour, too",
            "first = trained(*three)",
            "first = trained(*three, np.concatenate([plain(p, count // 3, size) for p in photographs]))",
        ),
    ],
    "autoencoders": [
        (
            "without hidden layers, encoder and decoder are linear",
            "nn.models.Autoencoder((64, 128, 32, 2), rng=demo.rng)",
            "nn.models.Autoencoder((64, 2), rng=demo.rng)",
        ),
        (
            "nothing pulls the codes towards N(0, I)",
            "loss = vae.loss(batch)",
            'loss = F.binary_cross_entropy_with_logits(vae(batch), batch, reduction="sum") / len(batch)',
        ),
        (
            "logits are taken for pixels",
            "made = F.sigmoid(vae.decode(drawn).data)",
            "made = vae.decode(drawn).data",
        ),
    ],
    "gan": [
        (
            "the generator does not learn",
            "        of_generator.step()\n",
            "",
        ),
        (
            "the discriminator does not learn",
            "        of_discriminator.step()\n",
            "",
        ),
    ],
    "char_rnn": [
        (
            "no cell has gates",
            "hidden_size=64, cell=cell,",
            'hidden_size=64, cell="rnn",',
        ),
        (
            "every cell has gates",
            "hidden_size=64, cell=cell,",
            'hidden_size=64, cell="lstm",',
        ),
        (
            "the numerals are those of other numbers",
            '"".join(line(n) for n in read)',
            '"".join(f"{m}=" + line(n).split("=")[1] for m, n in zip(numbers[1:], read))',
        ),
    ],
    "karate_club": [
        (
            "the network is given no edges",
            "shares_right(lonely), shares_right(adjacency)",
            "shares_right(lonely), shares_right(lonely)",
        ),
        (
            "the control is given the edges",
            "shares_right(lonely), shares_right(adjacency)",
            "shares_right(adjacency), shares_right(adjacency)",
        ),
        (
            "the two labels are mixed up",
            "F.index_select(z, 0, labelled), sides[labelled])",
            "F.index_select(z, 0, labelled), 1 - sides[labelled])",
        ),
    ],
    "depth": [
        (
            "all networks that are trained have lost their skips",
            "    model = nn.models.CifarResNet(depth, in_channels=1, skip=skip, rng=demo.rng)\n",
            "    model = nn.models.CifarResNet(depth, in_channels=1, skip=False, rng=demo.rng)\n",
        ),
        (
            "all networks whose gradient is looked at have skips",
            "networks = [nn.models.CifarResNet(depth, in_channels=1, skip=skip, rng=demo.rng)",
            "networks = [nn.models.CifarResNet(depth, in_channels=1, skip=True, rng=demo.rng)",
        ),
        (
            "the networks are for another number of classes",
            "getattr(nn.models, name)(rng=demo.rng)",
            "getattr(nn.models, name)(100, rng=demo.rng)",
        ),
    ],
}
