"""FID's Inception-v3 in PyTorch, from torch.nn alone, with the names of the published state dict."""

import torch
from torch import nn
from torch.nn import functional


class Unit(nn.Module):
    def __init__(self, inputs, outputs, size, **options):
        super().__init__()
        self.conv = nn.Conv2d(inputs, outputs, size, bias=False, **options)
        self.bn = nn.BatchNorm2d(outputs, eps=0.001)

    def forward(self, x):
        return functional.relu(self.bn(self.conv(x)))


def average(x):
    return functional.avg_pool2d(x, 3, stride=1, padding=1, count_include_pad=False)


def largest(x):
    return functional.max_pool2d(x, 3, stride=1, padding=1)


def halved(x):
    return functional.max_pool2d(x, 3, stride=2)


class Block(nn.Module):
    """Branches by name: each a chain of units, given as (name, inputs, outputs, size, options)."""

    def __init__(self, units, forward):
        super().__init__()
        for name, inputs, outputs, size, options in units:
            self.add_module(name, Unit(inputs, outputs, size, **options))
        self.run = forward

    def forward(self, x):
        return torch.cat(self.run(self, x), 1)


ACROSS, DOWN = {"padding": (0, 3)}, {"padding": (3, 0)}


def block_a(inputs, pooled):
    units = [
        ("branch1x1", inputs, 64, 1, {}),
        ("branch5x5_1", inputs, 48, 1, {}),
        ("branch5x5_2", 48, 64, 5, {"padding": 2}),
        ("branch3x3dbl_1", inputs, 64, 1, {}),
        ("branch3x3dbl_2", 64, 96, 3, {"padding": 1}),
        ("branch3x3dbl_3", 96, 96, 3, {"padding": 1}),
        ("branch_pool", inputs, pooled, 1, {}),
    ]
    return Block(
        units,
        lambda b, x: [
            b.branch1x1(x),
            b.branch5x5_2(b.branch5x5_1(x)),
            b.branch3x3dbl_3(b.branch3x3dbl_2(b.branch3x3dbl_1(x))),
            b.branch_pool(average(x)),
        ],
    )


def block_b(inputs):
    units = [
        ("branch3x3", inputs, 384, 3, {"stride": 2}),
        ("branch3x3dbl_1", inputs, 64, 1, {}),
        ("branch3x3dbl_2", 64, 96, 3, {"padding": 1}),
        ("branch3x3dbl_3", 96, 96, 3, {"stride": 2}),
    ]
    return Block(
        units,
        lambda b, x: [
            b.branch3x3(x),
            b.branch3x3dbl_3(b.branch3x3dbl_2(b.branch3x3dbl_1(x))),
            halved(x),
        ],
    )


def block_c(inputs, middle):
    units = [
        ("branch1x1", inputs, 192, 1, {}),
        ("branch7x7_1", inputs, middle, 1, {}),
        ("branch7x7_2", middle, middle, (1, 7), ACROSS),
        ("branch7x7_3", middle, 192, (7, 1), DOWN),
        ("branch7x7dbl_1", inputs, middle, 1, {}),
        ("branch7x7dbl_2", middle, middle, (7, 1), DOWN),
        ("branch7x7dbl_3", middle, middle, (1, 7), ACROSS),
        ("branch7x7dbl_4", middle, middle, (7, 1), DOWN),
        ("branch7x7dbl_5", middle, 192, (1, 7), ACROSS),
        ("branch_pool", inputs, 192, 1, {}),
    ]

    def run(b, x):
        large = b.branch7x7_3(b.branch7x7_2(b.branch7x7_1(x)))
        double = b.branch7x7dbl_1(x)
        for k in (2, 3, 4, 5):
            double = getattr(b, f"branch7x7dbl_{k}")(double)
        return [b.branch1x1(x), large, double, b.branch_pool(average(x))]

    return Block(units, run)


def block_d(inputs):
    units = [
        ("branch3x3_1", inputs, 192, 1, {}),
        ("branch3x3_2", 192, 320, 3, {"stride": 2}),
        ("branch7x7x3_1", inputs, 192, 1, {}),
        ("branch7x7x3_2", 192, 192, (1, 7), ACROSS),
        ("branch7x7x3_3", 192, 192, (7, 1), DOWN),
        ("branch7x7x3_4", 192, 192, 3, {"stride": 2}),
    ]

    def run(b, x):
        large = b.branch7x7x3_1(x)
        for k in (2, 3, 4):
            large = getattr(b, f"branch7x7x3_{k}")(large)
        return [b.branch3x3_2(b.branch3x3_1(x)), large, halved(x)]

    return Block(units, run)


def block_e(inputs, pool):
    across, down = {"padding": (0, 1)}, {"padding": (1, 0)}
    units = [
        ("branch1x1", inputs, 320, 1, {}),
        ("branch3x3_1", inputs, 384, 1, {}),
        ("branch3x3_2a", 384, 384, (1, 3), across),
        ("branch3x3_2b", 384, 384, (3, 1), down),
        ("branch3x3dbl_1", inputs, 448, 1, {}),
        ("branch3x3dbl_2", 448, 384, 3, {"padding": 1}),
        ("branch3x3dbl_3a", 384, 384, (1, 3), across),
        ("branch3x3dbl_3b", 384, 384, (3, 1), down),
        ("branch_pool", inputs, 192, 1, {}),
    ]

    def run(b, x):
        once, double = b.branch3x3_1(x), b.branch3x3dbl_2(b.branch3x3dbl_1(x))
        return [
            b.branch1x1(x),
            b.branch3x3_2a(once),
            b.branch3x3_2b(once),
            b.branch3x3dbl_3a(double),
            b.branch3x3dbl_3b(double),
            b.branch_pool(pool(x)),
        ]

    return Block(units, run)


class Inception(nn.Module):
    def __init__(self):
        super().__init__()
        self.Conv2d_1a_3x3 = Unit(3, 32, 3, stride=2)
        self.Conv2d_2a_3x3 = Unit(32, 32, 3)
        self.Conv2d_2b_3x3 = Unit(32, 64, 3, padding=1)
        self.Conv2d_3b_1x1 = Unit(64, 80, 1)
        self.Conv2d_4a_3x3 = Unit(80, 192, 3)
        self.Mixed_5b, self.Mixed_5c, self.Mixed_5d = block_a(192, 32), block_a(256, 64), block_a(288, 64)
        self.Mixed_6a = block_b(288)
        self.Mixed_6b, self.Mixed_6c = block_c(768, 128), block_c(768, 160)
        self.Mixed_6d, self.Mixed_6e = block_c(768, 160), block_c(768, 192)
        self.Mixed_7a = block_d(768)
        self.Mixed_7b, self.Mixed_7c = block_e(1280, average), block_e(2048, largest)
        self.fc = nn.Linear(2048, 1008)

    def forward(self, x):
        x = halved(self.Conv2d_2b_3x3(self.Conv2d_2a_3x3(self.Conv2d_1a_3x3(x))))
        x = halved(self.Conv2d_4a_3x3(self.Conv2d_3b_1x1(x)))
        for name in ("5b", "5c", "5d", "6a", "6b", "6c", "6d", "6e", "7a", "7b", "7c"):
            x = getattr(self, f"Mixed_{name}")(x)
        return functional.adaptive_avg_pool2d(x, 1).flatten(1)


def random_weights(module, seed=0):
    """Weights that keep the size of what passes, and statistics of the norms that are not 0 and 1."""
    generator = torch.Generator().manual_seed(seed)

    def draw(tensor):
        return torch.randn(tensor.shape, generator=generator)

    with torch.no_grad():
        for part in module.modules():
            if isinstance(part, nn.Conv2d):
                part.weight.copy_(draw(part.weight) * (2 / part.weight[0].numel()) ** 0.5)
            elif isinstance(part, nn.BatchNorm2d):
                part.weight.copy_(1 + 0.2 * draw(part.weight))
                part.bias.copy_(0.2 * draw(part.bias))
                part.running_mean.copy_(0.2 * draw(part.running_mean))
                part.running_var.copy_(0.5 + draw(part.running_var).abs())
    return module.eval()
