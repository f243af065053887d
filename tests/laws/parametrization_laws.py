"""What every parametrization must satisfy, as plain functions of a method and a small network in double precision."""

import copy
import math

import torch
from torch import nn

from taut.codec.files import load, save
from taut.layers import find_layers
from taut.parametrizations import (
    Binary,
    Entropy,
    Gaussian,
    HashedWeights,
    Latent,
    LossAware,
    Parametrization,
    SparseVariationalDropout,
    SvdTraining,
    Variational,
    description_length,
)
from taut.parametrizations.entropy import Grid
from taut.reparametrize import wrap


class LastStep(nn.Module):
    """A recurrent network that gives its last output."""

    def __init__(self):
        super().__init__()
        self.rnn, self.head = nn.LSTM(3, 4, batch_first=True), nn.Linear(4, 2)

    def forward(self, x):
        return self.head(self.rnn(x)[0][:, -1])


class OutOfForward(nn.Module):
    """A layer whose weight is read by another module, as attention does with its output layer."""

    def __init__(self):
        super().__init__()
        self.layer = nn.Linear(6, 4)

    def forward(self, x):
        return nn.functional.linear(x, self.layer.weight, self.layer.bias)


def _convolutions():
    first = nn.Conv2d(2, 4, (3, 2), stride=(2, 1), padding=1)
    return nn.Sequential(first, nn.Tanh(), nn.Conv2d(4, 4, 3, groups=2, padding=1, padding_mode="circular"))


NETWORKS = {
    "linear": (lambda: nn.Sequential(nn.Linear(6, 5), nn.ReLU(), nn.Linear(5, 3, bias=False)), (4, 6)),
    "conv1d": (lambda: nn.Sequential(nn.Conv1d(3, 4, 3, padding=1), nn.Tanh(), nn.Conv1d(4, 2, 3, dilation=2)), (2, 3, 7)),
    "conv2d": (_convolutions, (2, 2, 7, 6)),
    "lstm": (LastStep, (3, 4, 3)),
    "read": (OutOfForward, (4, 6)),
}


def network(name, seed=0):
    """A network of ``NETWORKS`` with its inputs."""
    make, shape = NETWORKS[name]
    torch.manual_seed(seed)
    return make().double(), torch.randn(*shape, dtype=torch.float64)


def train(training, x, steps=3, lr=0.05):
    """A few steps on the loss and a little of the penalty."""
    model = training.model.train()
    optimizer = torch.optim.SGD(model.parameters(), lr=lr)
    for _ in range(steps):
        optimizer.zero_grad()
        ((model(x) - 1).square().mean() + 1e-3 * training.penalty()).backward()
        optimizer.step()
    return training


def trained(method, name):
    model, x = network(name)
    return train(wrap(model, {"*": method}), x), x


def evaluate(model, x):
    model.eval()
    with torch.no_grad():
        return model(x)


def weights(model):
    with torch.no_grad():
        return {name: layer.weight.clone() for name, layer in find_layers(model.eval()).items()}


def agrees(method, weight, seen):
    """What each method's page says of the weight right after wrapping."""
    size, rms = weight.abs(), float(weight.square().mean().sqrt())
    if isinstance(method, Variational):
        assert torch.equal(seen, torch.where(size >= method.threshold * method.noise * rms, weight, 0.0))
    elif isinstance(method, SparseVariationalDropout):
        assert torch.equal(seen, torch.where(size >= method.sigma * math.exp(-method.threshold / 2), weight, 0.0))
    elif isinstance(method, SvdTraining):
        assert float((seen - weight).norm()) <= math.sqrt(1 - method.energy) * float(weight.norm()) + 1e-12
    elif isinstance(method, HashedWeights):
        assert math.isclose(float(seen.norm()), float(weight.norm()), rel_tol=1e-12)
        assert seen.abs().unique().numel() <= max(1, round(method.ratio * weight.numel()))
        assert method.ratio < 1 or torch.equal(seen, weight)
    elif isinstance(method, Entropy):
        step = 2 * method.coarse * float(size.mean())
        assert float((seen - weight).abs().max()) <= max(step / 2, float(size.max()) - method.levels * step) + 1e-12
    elif isinstance(method, Binary):
        rows = {"row": size.reshape(len(size), -1).mean(1), "tensor": size.mean(), "none": size.new_ones(())}[method.scale]
        scale = seen.abs().reshape(len(seen), -1)
        assert bool((scale == scale[:, :1]).all()) and torch.allclose(scale[:, 0], rows.expand(len(seen)), rtol=2**-8)
        assert torch.equal(seen > 0, weight >= 0)
    elif isinstance(method, LossAware):
        assert torch.allclose(seen, torch.where(weight >= 0, size.mean(), -size.mean()))
    else:
        raise AssertionError(f"{method}: say here what its page says of the weight after wrapping")


def check_start(method, name):
    """Right after wrapping, the weight in evaluation mode is what the method's page says of the original."""
    model, _ = network(name)
    before = weights(model)
    wrap(model, {"*": method})
    for layer, seen in weights(model).items():
        assert seen.shape == before[layer].shape and seen.dtype == before[layer].dtype, (
            f"{method}: {layer} {seen.shape} {seen.dtype}"
        )
        agrees(method, before[layer], seen)


def check_owns(method, w):
    """The weight given is not changed, then or by training, and what is trained is finite."""
    kept = w.clone()
    latent = method.latent(w)
    tensors = latent.right_inverse(w)
    assert all(bool(torch.isfinite(t).all()) for t in tensors), f"{method}: starts with NaN or infinite values"
    for t in tensors:
        t.fill_(7.0)
    assert torch.equal(w, kept), f"{method}: trains in the memory of the weight it was given"


def check_trains(method, name):
    """The optimizer sees what is trained, not the weight; the loss reaches all of it."""
    model, x = network(name)
    training = wrap(model.train(), {"*": method})
    mine = {id(p) for p in model.parameters()}
    ((model(x) - 1).square().mean() + 1e-3 * training.penalty()).backward()
    for layer, (_, tensors) in training.latents().items():
        for t in tensors:
            assert id(t) in mine and t.is_leaf and t.requires_grad, f"{method}: {layer} has a tensor no optimizer is given"
            assert t.grad is not None and bool(torch.isfinite(t.grad).all()), f"{method}: {layer} gets no finite gradient"
            assert bool((t.grad != 0).any()), f"{method}: {layer} has a tensor without a slope"


def check_repeats(method, name):
    """In evaluation mode there is no noise, and random numbers are not touched."""
    training, x = trained(method, name)
    state = torch.get_rng_state()
    assert torch.equal(evaluate(training.model, x), evaluate(training.model, x)), f"{method}: noise in evaluation mode"
    assert torch.equal(torch.get_rng_state(), state), f"{method}: draws in evaluation mode"


def check_finalize(method, name):
    """The final network computes what the wrapped one does in evaluation mode, from codes alone."""
    training, x = trained(method, name)
    model, layers = training.model, dict(training.layers)
    before, seen = evaluate(model, x), weights(model)
    for layer, (latent, tensors) in training.latents().items():
        stored = latent.code(*(t.detach() for t in tensors))
        assert not any(t.requires_grad for t in stored.free()), f"{method}: {layer}'s code is part of a graph"
        assert torch.equal(stored.decompress(), seen[layer]), f"{method}: {layer}'s code is not the weight"
    assert training.finalize() is model
    assert not any(isinstance(m, Latent) for m in model.modules()), f"{method}: a latent is left in the model"
    after, now = evaluate(model, x), weights(model)
    for layer in set(layers) & set(now):
        assert torch.equal(now[layer], seen[layer]), f"{method}: {layer}'s weight is another"
    # the same numbers, but two layers in a row, or a plain weight in another place of the memory, may add in another order
    apart = float((after - before).abs().max())
    assert torch.allclose(after, before, rtol=1e-10, atol=1e-12), f"{method}: the final network is another, by {apart:.3g}"
    model.train()(x).square().sum().backward()


def check_file(method, name, path):
    """The final network comes back from its file bit for bit."""
    training, x = trained(method, name)
    model = training.finalize()
    save(model, path)
    assert torch.equal(evaluate(load(path, into=network(name, seed=1)[0]), x), evaluate(model, x)), (
        f"{method}: another from its file"
    )


def count(training):
    """Take the frequencies that some penalties are made of."""
    for latent, tensors in training.latents().values():
        if isinstance(latent, Grid):
            latent.count(*tensors)


def check_penalty(method, name, fixed=()):
    """A finite scalar whose gradient is that of finite differences; tensors numbered in ``fixed`` get none from it."""
    training, _ = trained(method, name)
    count(training)
    total = 0.0
    for layer, (latent, parameters) in training.latents().items():
        tensors = [t.detach().clone().requires_grad_() for t in parameters]
        value = latent.penalty(*tensors)
        assert value.shape == () and math.isfinite(value.item()), f"{method}: {layer}'s penalty is {value}"
        total += value.item()
        gradients = torch.autograd.grad(value, tensors, allow_unused=True)
        for number, (t, gradient) in enumerate(zip(tensors, gradients, strict=True)):
            if number in fixed:
                assert gradient is None or not bool(gradient.any()), f"{method}: {layer}'s tensor {number} is not fixed"
                continue
            slope = torch.zeros_like(t) if gradient is None else gradient
            for seed in range(4):
                direction = torch.randn(t.shape, dtype=t.dtype, generator=torch.Generator().manual_seed(seed))
                found = _difference(latent, tensors, number, direction)
                expected = float((slope * direction).sum())
                assert math.isclose(found, expected, rel_tol=1e-4, abs_tol=1e-5), f"{method}: {layer} {number} {found} {expected}"
    assert math.isclose(training.penalty().item(), total, rel_tol=1e-12, abs_tol=1e-12), f"{method}: not the sum over layers"


def _difference(latent, tensors, number, direction, step=3e-6):
    """The slope of the penalty along a direction in one of the tensors."""
    with torch.no_grad():
        ends = []
        for sign in (1, -1):
            moved = [t + sign * step * direction if i == number else t for i, t in enumerate(tensors)]
            ends.append(float(latent.penalty(*moved)))
    return (ends[0] - ends[1]) / (2 * step)


def check_copy(method, name):
    """A copy taken in training is as the original, and neither feels what is done to the other."""
    training, x = trained(method, name)
    before = evaluate(training.model, x)
    other = copy.deepcopy(training)
    assert torch.equal(evaluate(other.model, x), before), f"{method}: the copy is another network"
    moved = evaluate(train(other, x, lr=0.2).model, x)
    assert not torch.equal(moved, before), f"{method}: the copy does not train"
    assert torch.equal(evaluate(training.model, x), before), f"{method}: training the copy changes the original"
    other.finalize()
    assert torch.equal(evaluate(training.model, x), before), f"{method}: finalizing the copy changes the original"
    assert all(isinstance(latent, Latent) for latent, _ in training.latents().values())
    train(training, x).finalize()


def check_state_dict(method, name):
    """A state taken in training, put into a network wrapped anew, goes on as the first does."""
    training, x = trained(method, name)
    state = copy.deepcopy(training.model.state_dict())
    other = wrap(network(name, seed=5)[0], {"*": method})
    other.model.load_state_dict(state)
    assert torch.equal(evaluate(other.model, x), evaluate(training.model, x)), f"{method}: its state makes another network"
    for one in (training, other):
        torch.manual_seed(3)
        count(one)
        train(one, x)
    assert training.penalty().item() == other.penalty().item(), f"{method}: its state has another penalty"
    for key, value in training.model.state_dict().items():
        assert torch.equal(other.model.state_dict()[key], value), f"{method}: {key} goes on differently"


def check_draws(method, name, draws=8000):
    """Gaussian methods: a layer's outputs in training have the mean and the variance that independent weights give them.

    The output is linear in the weights, so that the variance is the sum of the squared slopes times the weights' variances.
    """
    model, x = network(name)
    layer = next(module for module in model.modules() if isinstance(module, nn.Linear | nn.Conv1d | nn.Conv2d))
    x = x[:1]
    training = wrap(nn.Sequential(layer), {"*": method})
    ((latent, (mean, log_sigma)),) = training.latents().values()
    assert isinstance(latent, Gaussian)
    with torch.no_grad():
        log_sigma.copy_(torch.randn_like(log_sigma) - 1)

    def output(w):
        inner = nn.functional.linear(x, w, layer.bias) if isinstance(layer, nn.Linear) else layer._conv_forward(x, w, layer.bias)
        return inner.reshape(-1)

    center = output(mean.detach())
    slopes = torch.autograd.functional.jacobian(output, mean.detach()).reshape(len(center), -1)
    variance = slopes.square() @ (2 * log_sigma.detach()).exp().reshape(-1)
    layer.train()
    with torch.no_grad():
        by_layer = layer(x.expand(draws, *x.shape[1:])).reshape(draws, -1)
        by_weight = torch.stack([output(layer.weight) for _ in range(draws // 8)])
    for way, sample in (("layer", by_layer), ("weight", by_weight)):
        n = len(sample)
        far = (sample.mean(0) - center).abs() / (variance / n).sqrt().clamp_min(1e-300)
        ratio = sample.var(0) / variance.clamp_min(1e-300)
        assert float(far.max()) < 6, f"{method}: the outputs by {way} have another mean"
        assert float((ratio - 1).abs().max()) < 8 * math.sqrt(2 / n), f"{method}: the outputs by {way} have another variance"


def regression(examples=40, inputs=6, noise=0.5):
    """Linear regression with orthogonal inputs of known noise, where all of Bayesian inference has a closed form."""
    generator = torch.Generator().manual_seed(11)
    x = torch.linalg.qr(torch.randn(examples, inputs, generator=generator, dtype=torch.float64))[0]
    x = x * torch.logspace(0, 1.2, inputs, dtype=torch.float64)
    w = torch.randn(inputs, generator=generator, dtype=torch.float64) + 0.3
    return x, x @ w + noise * torch.randn(examples, generator=generator, dtype=torch.float64), noise


def exact_posterior(x, y, noise, rounds=4000):
    """Means and variances of the posterior, and the negative logarithm of the evidence in nats, under the best Gaussian prior.

    The prior's mean and variance are those of the posterior they lead to: the maximum of the evidence (expectation maximization).
    """
    squares, products = x.square().sum(0) / noise**2, x.T @ y / noise**2
    m, spread = torch.zeros((), dtype=torch.float64), torch.ones((), dtype=torch.float64)
    for _ in range(rounds):
        variance = 1 / (squares + 1 / spread)
        mean = variance * (products + m / spread)
        m = mean.mean()
        spread = (variance + (mean - m).square()).mean()
    marginal = torch.distributions.MultivariateNormal(
        m * x.sum(1), noise**2 * torch.eye(len(y), dtype=torch.float64) + spread * x @ x.T
    )
    return mean, variance, -float(marginal.log_prob(y))


def expected_error(x, y, noise, mean, variance):
    """The expected negative log-likelihood in nats of labels under Gaussian weights."""
    residual = (y - x @ mean).square().sum() + (x.square().sum(0) * variance).sum()
    return residual / (2 * noise**2) + len(y) / 2 * math.log(2 * math.pi * noise**2)


def check_evidence(method):
    """The least of expected error and penalty is the evidence of the data; there the posterior is the exact one."""
    x, y, noise = regression()
    mean, variance, evidence = exact_posterior(x, y, noise)
    training = wrap(nn.Sequential(nn.Linear(x.shape[1], 1, bias=False).double()), {"*": method})
    ((_, tensors),) = training.latents().values()
    optimizer = torch.optim.LBFGS(tensors, max_iter=400, tolerance_grad=1e-12, tolerance_change=0, line_search_fn="strong_wolfe")

    def length():
        optimizer.zero_grad()
        value = expected_error(x, y, noise, tensors[0][0], (2 * tensors[1][0]).exp()) + training.penalty()
        value.backward()
        return value

    optimizer.step(length)
    least = float(length().detach())
    assert math.isclose(least, evidence, rel_tol=1e-8), f"{method}: {least} nats at best, the evidence is {evidence}"
    assert torch.allclose(tensors[0][0], mean, rtol=1e-4), f"{method}: another posterior mean"
    assert torch.allclose((2 * tensors[1][0]).exp(), variance, rtol=1e-4), f"{method}: another posterior variance"
    return training, (x, y, noise), evidence


def check_description_length(measure=description_length, method=None):
    """Measured by drawing weights, the description length is the evidence in bits, and its parts are the exact ones."""
    training, (x, y, noise), evidence = check_evidence(method or Variational())
    scale = len(y) / 2 * math.log(2 * math.pi * noise**2)

    def loss(model, batch):
        return (batch[1] - model(batch[0])[:, 0]).square().sum() / (2 * noise**2) + scale * len(batch[1]) / len(y)

    length = measure(training, [(x[:25], y[:25]), (x[25:], y[25:])], loss, samples=1500)
    weight_bits = training.penalty().item() / math.log(2)
    assert math.isclose(length.weights, weight_bits, rel_tol=1e-12), f"{length.weights} bits of weights, not {weight_bits}"
    # the draws' spread: a chi-squared error of a few nats a draw
    assert abs(length.total - evidence / math.log(2)) < 0.3, f"{length.total} bits, the evidence is {evidence / math.log(2)}"


def discovered(listed):
    """Every parametrization of taut of a class that ``listed`` lacks, at its defaults."""
    known = {type(setting) for setting in listed}
    found = [cls for cls in Parametrization.registry.values() if cls.__module__.startswith("taut.") and cls not in known]
    return [cls() for cls in found]
