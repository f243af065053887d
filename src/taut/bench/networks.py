"""The networks of the demo and of the published comparisons, each built by name with a seed.

All of them take images ``(n, channels, height, width)``, give logits ``(n, 10)`` and flatten with ``flatten(1)``: no size
of a layer is written into a ``forward``, so that filters can be removed.
"""

from collections import OrderedDict
from collections.abc import Callable

import torch
from torch import Tensor, nn

from taut.bench.transformer import char_transformer
from taut.binary import Sign
from taut.errors import TautError


def build(name: str, seed: int = 0) -> nn.Module:
    """The network called ``name`` with random weights from ``seed``, in training mode; the global random state is left alone.

    ======================  ============  =========  ==========================================================
    name                    input         parameters  source
    ======================  ============  =========  ==========================================================
    ``digits-cnn``          1 x 8 x 8     75,114     the demo's: batch norm and one residual join
    ``fashion-cnn``         1 x 28 x 28   375,018    the same family, one step down more and a hidden layer
    ``digits-resnet``       1 x 8 x 8     1,228,394  He et al., 2016, ten layers, a million parameters
    ``fashion-resnet``      1 x 28 x 28   1,228,394  the same, with pooling after the stem
    ``lenet-300-100``       1 x 28 x 28   266,610    LeCun et al., 1998
    ``lenet-5-caffe``       1 x 28 x 28   431,080    Caffe's LeNet-5, with a ReLU after each convolution
    ``resnet-20``           3 x 32 x 32   272,474    He et al., 2016, section 4.2, projection shortcuts (B)
    ``vgg-small``           3 x 32 x 32   1,756,842  Simonyan and Zisserman, 2015, eight convolutions, batch norm
    ``bnn-small``           3 x 32 x 32   964,170    Hubara et al., 2016, binary activations; see :data:`BINARY`
    ``char-transformer``    128           1,841,761  Radford et al., 2019, four blocks of width 192
    ======================  ============  =========  ==========================================================

    Raises:
        TautError: an unknown name; the message lists the known ones.

    Example:
        >>> sum(p.numel() for p in build("lenet-300-100").parameters())
        266610
    """
    if name not in NETWORKS:
        raise TautError(f"unknown network {name!r}; choose one of {', '.join(NETWORKS)}")
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        return NETWORKS[name]()


class ConvNorm(nn.Sequential):
    """A convolution without bias, batch norm, and a ReLU unless ``relu`` is false."""

    def __init__(self, inputs: int, outputs: int, kernel: int = 3, stride: int = 1, relu: bool = True) -> None:
        parts: dict[str, nn.Module] = {
            "conv": nn.Conv2d(inputs, outputs, kernel, stride, padding=kernel // 2, bias=False),
            "norm": nn.BatchNorm2d(outputs),
        }
        if relu:
            parts["relu"] = nn.ReLU()
        super().__init__(OrderedDict(parts))


class BinaryConvNorm(nn.Sequential):
    """Signs, padded with +1, a 3x3 convolution without bias, batch norm, and pooling to half the size or to one position.

    The weights are real: :class:`taut.parametrizations.Binary` trains them to be signs.
    """

    def __init__(self, inputs: int, outputs: int, last: bool = False) -> None:
        parts: dict[str, nn.Module] = {
            "sign": Sign(),
            "pad": nn.ConstantPad2d(1, 1.0),
            "conv": nn.Conv2d(inputs, outputs, 3, bias=False),
            "norm": nn.BatchNorm2d(outputs),
            "pool": nn.AdaptiveAvgPool2d(1) if last else nn.MaxPool2d(2),
        }
        super().__init__(OrderedDict(parts))


class Residual(nn.Module):
    """Two 3x3 convolutions and the input added to them, projected where the shape changes (He et al., 2016, equation 2)."""

    def __init__(self, inputs: int, outputs: int, stride: int = 1) -> None:
        super().__init__()
        self.first = ConvNorm(inputs, outputs, stride=stride)
        self.second = ConvNorm(outputs, outputs, relu=False)
        same = inputs == outputs and stride == 1
        self.shortcut = nn.Identity() if same else ConvNorm(inputs, outputs, kernel=1, stride=stride, relu=False)
        self.relu = nn.ReLU()

    def forward(self, x: Tensor) -> Tensor:
        """``relu(second(first(x)) + shortcut(x))``."""
        return self.relu(self.second(self.first(x)) + self.shortcut(x))


def _named(**parts: nn.Module) -> nn.Sequential:
    return nn.Sequential(OrderedDict(parts))


def digits_cnn() -> nn.Sequential:
    """For 8x8 images: a stem, a residual block, a step down, one more convolution, average pooling and a classifier."""
    return _named(
        stem=ConvNorm(1, 32),
        block=Residual(32, 32),
        down=ConvNorm(32, 64, stride=2),
        mix=ConvNorm(64, 64),
        pool=nn.AdaptiveAvgPool2d(1),
        flatten=nn.Flatten(1),
        out=nn.Linear(64, 10),
    )


def fashion_cnn() -> nn.Sequential:
    """For 28x28 images: as :func:`digits_cnn`, with pooling after the stem, two steps down and a hidden layer."""
    return _named(
        stem=ConvNorm(1, 32),
        shrink=nn.MaxPool2d(2),
        block=Residual(32, 32),
        down1=ConvNorm(32, 64, stride=2),
        down2=ConvNorm(64, 128, stride=2),
        flatten=nn.Flatten(1),
        hidden=nn.Linear(128 * 16, 128),
        relu=nn.ReLU(),
        out=nn.Linear(128, 10),
    )


def _resnet_10(**before: nn.Module) -> nn.Sequential:
    """Four residual blocks, 32 to 256 wide, the last three at half the size each."""
    blocks = [Residual(32, 32), *(Residual(width, 2 * width, stride=2) for width in (32, 64, 128))]
    named = {f"block{i}": block for i, block in enumerate(blocks, 1)}
    return _named(**before, **named, pool=nn.AdaptiveAvgPool2d(1), flatten=nn.Flatten(1), out=nn.Linear(256, 10))


def digits_resnet() -> nn.Sequential:
    """For 8x8 images: a stem and four residual blocks, 32 to 256 wide."""
    return _resnet_10(stem=ConvNorm(1, 32))


def fashion_resnet() -> nn.Sequential:
    """For 28x28 images: as :func:`digits_resnet`, with pooling after the stem."""
    return _resnet_10(stem=ConvNorm(1, 32), shrink=nn.MaxPool2d(2))


def lenet_300_100() -> nn.Sequential:
    """Two hidden layers of 300 and 100."""
    return _named(
        flatten=nn.Flatten(1),
        fc1=nn.Linear(784, 300),
        relu1=nn.ReLU(),
        fc2=nn.Linear(300, 100),
        relu2=nn.ReLU(),
        fc3=nn.Linear(100, 10),
    )


def lenet_5_caffe() -> nn.Sequential:
    """Two 5x5 convolutions of 20 and 50 filters, each followed by pooling, and a hidden layer of 500."""
    return _named(
        conv1=nn.Conv2d(1, 20, 5),
        relu1=nn.ReLU(),
        pool1=nn.MaxPool2d(2),
        conv2=nn.Conv2d(20, 50, 5),
        relu2=nn.ReLU(),
        pool2=nn.MaxPool2d(2),
        flatten=nn.Flatten(1),
        fc1=nn.Linear(800, 500),
        relu3=nn.ReLU(),
        fc2=nn.Linear(500, 10),
    )


def resnet_20() -> nn.Sequential:
    """Three stages of three residual blocks, 16, 32 and 64 wide."""
    stages = []
    for inputs, outputs in ((16, 16), (16, 32), (32, 64)):
        first = Residual(inputs, outputs, stride=outputs // inputs)
        stages.append(nn.Sequential(first, Residual(outputs, outputs), Residual(outputs, outputs)))
    return _named(
        stem=ConvNorm(3, 16),
        stage1=stages[0],
        stage2=stages[1],
        stage3=stages[2],
        pool=nn.AdaptiveAvgPool2d(1),
        flatten=nn.Flatten(1),
        out=nn.Linear(64, 10),
    )


def vgg_small() -> nn.Sequential:
    """Four stages of 3x3 convolutions, 32, 64, 128 and 256 wide, halved by pooling, then average pooling."""
    parts: dict[str, nn.Module] = {}
    inputs = 3
    for stage, (outputs, depth) in enumerate(((32, 1), (64, 2), (128, 2), (256, 3)), 1):
        for i in range(1, depth + 1):
            parts[f"conv{stage}_{i}"] = ConvNorm(inputs, outputs)
            inputs = outputs
        parts[f"pool{stage}"] = nn.MaxPool2d(2) if stage < 4 else nn.AdaptiveAvgPool2d(1)
    return _named(**parts, flatten=nn.Flatten(1), out=nn.Linear(inputs, 10))


def bnn_small() -> nn.Sequential:
    """Three binary convolutions, 128, 256 and 256 wide, between a real first convolution and a real classifier.

    First and last layers stay real, as in the literature: together 4,288 of the weights.
    """
    return _named(
        stem=ConvNorm(3, 64, relu=False),
        pool=nn.MaxPool2d(2),
        binary1=BinaryConvNorm(64, 128),
        binary2=BinaryConvNorm(128, 256),
        binary3=BinaryConvNorm(256, 256, last=True),
        flatten=nn.Flatten(1),
        out=nn.Linear(256, 10),
    )


BINARY = "binary*"
"""The layers of ``bnn-small`` that are trained to be binary: ``wrap(build("bnn-small"), {BINARY: Binary()})``."""

NETWORKS: dict[str, Callable[[], nn.Module]] = {
    "digits-cnn": digits_cnn,
    "fashion-cnn": fashion_cnn,
    "digits-resnet": digits_resnet,
    "fashion-resnet": fashion_resnet,
    "lenet-300-100": lenet_300_100,
    "lenet-5-caffe": lenet_5_caffe,
    "resnet-20": resnet_20,
    "vgg-small": vgg_small,
    "bnn-small": bnn_small,
    "char-transformer": char_transformer,
}
