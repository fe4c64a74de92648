"""The paper's Tables 1, 6, 7: 36 networks on CIFAR-100, mean and std of five seeds."""

from __future__ import annotations

from dataclasses import dataclass

from trainact.lab.recipe import Expected


@dataclass(frozen=True)
class Row:
    """A row of the tables, in per cent.

    Attributes:
        title: the paper's name of the network.
        vanilla: 200 epochs, Tables 1 and 6.
        tract: TrAct with λ = 0.1, 200 epochs, Tables 1 and 6.
        tract_133: TrAct with λ = 0.1, 133 epochs, Table 7.
    """

    title: str
    vanilla: Expected
    tract: Expected
    tract_133: Expected


# Each of vanilla, TrAct and TrAct for 133 epochs: top-1, its std, top-5, its std.
_FIGURES = """
SqueezeNet      69.45 0.30 91.09 0.20 70.48 0.17 91.50 0.13 70.36 0.30 91.69 0.16
MobileNet       66.99 0.16 88.95 0.07 67.06 0.41 89.12 0.16 67.45 0.38 89.41 0.13
MobileNetV2     67.76 0.20 90.80 0.10 67.89 0.22 90.91 0.11 68.01 0.32 90.90 0.13
ShuffleNet      69.98 0.22 91.18 0.12 69.97 0.30 91.45 0.29 70.31 0.32 91.67 0.25
ShuffleNetV2    69.31 0.13 90.91 0.15 69.88 0.26 91.02 0.08 70.09 0.34 91.20 0.20
VGG-11          68.44 0.24 88.02 0.10 69.66 0.20 88.99 0.21 69.14 0.13 88.92 0.18
VGG-13          71.96 0.26 90.27 0.17 72.98 0.18 90.78 0.15 72.53 0.26 90.81 0.12
VGG-16          72.12 0.24 89.81 0.19 72.73 0.16 90.11 0.15 72.11 0.10 90.28 0.10
VGG-19          71.13 0.46 88.10 0.36 71.45 0.34 88.42 0.46 70.54 0.46 88.48 0.20
DenseNet121     78.93 0.28 94.83 0.13 79.55 0.25 94.92 0.11 79.09 0.21 94.79 0.11
DenseNet161     79.95 0.21 95.25 0.19 80.47 0.25 95.37 0.12 80.20 0.12 95.30 0.11
DenseNet201     79.39 0.20 95.07 0.12 79.94 0.19 95.17 0.10 79.99 0.20 95.12 0.16
GoogLeNet       76.85 0.14 93.53 0.16 77.18 0.11 93.86 0.10 76.59 0.35 93.83 0.18
Inception-v3    79.40 0.15 94.94 0.21 79.24 0.33 95.04 0.06 78.70 0.22 94.76 0.16
Inception-v4    77.32 0.36 93.80 0.33 77.14 0.28 93.90 0.20 76.50 0.46 93.56 0.21
Inception-RN-v2 75.59 0.45 93.00 0.18 75.73 0.30 93.32 0.19 75.15 0.24 92.99 0.29
Xception        77.57 0.31 93.92 0.17 77.71 0.17 93.97 0.10 77.55 0.34 93.90 0.14
ResNet18        76.13 0.27 93.01 0.06 76.67 0.26 93.29 0.22 75.86 0.20 93.07 0.07
ResNet34        77.34 0.33 93.78 0.16 77.87 0.25 93.75 0.10 77.29 0.23 93.72 0.17
ResNet50        78.20 0.35 94.28 0.09 79.07 0.18 94.67 0.07 78.44 0.27 94.47 0.11
ResNet101       79.07 0.22 94.71 0.20 79.51 0.43 94.87 0.06 79.20 0.17 94.77 0.11
ResNet152       78.86 0.28 94.65 0.22 79.83 0.22 94.96 0.09 79.34 0.21 94.92 0.08
ResNeXt50       78.55 0.22 94.61 0.16 78.92 0.14 94.80 0.12 78.90 0.16 94.75 0.06
ResNeXt101      79.13 0.33 94.85 0.14 79.54 0.25 94.84 0.10 79.09 0.15 94.78 0.08
ResNeXt152      79.26 0.29 94.69 0.11 79.48 0.16 94.89 0.17 78.91 0.18 94.67 0.12
SE-ResNet18     76.25 0.18 93.09 0.19 76.77 0.10 93.36 0.09 76.51 0.43 93.29 0.16
SE-ResNet34     77.85 0.19 93.88 0.15 78.20 0.16 94.13 0.21 77.81 0.15 94.02 0.18
SE-ResNet50     77.78 0.26 94.33 0.12 78.79 0.11 94.53 0.24 78.32 0.22 94.47 0.14
SE-ResNet101    77.94 0.49 94.22 0.10 79.19 0.37 94.70 0.13 79.07 0.12 94.79 0.31
SE-ResNet152    78.10 0.47 94.46 0.13 79.35 0.27 94.73 0.15 79.03 0.49 94.74 0.10
NASNet          77.76 0.19 94.26 0.28 78.17 0.11 94.35 0.21 77.85 0.22 94.34 0.16
Wide-RN-40-10   78.93 0.07 94.42 0.09 79.60 0.18 94.80 0.12 79.37 0.25 94.72 0.07
StochD-RN-18    75.39 0.14 94.09 0.10 75.44 0.33 94.13 0.17 74.11 0.16 93.75 0.13
StochD-RN-34    78.03 0.33 94.81 0.08 78.16 0.39 94.97 0.10 76.83 0.31 94.61 0.19
StochD-RN-50    77.02 0.18 94.61 0.13 77.40 0.24 94.78 0.10 75.87 0.29 94.28 0.18
StochD-RN-101   78.72 0.12 94.67 0.05 78.96 0.27 94.75 0.05 77.73 0.20 94.55 0.02
"""

# Where the name in pytorch-cifar100 is not the paper's in small letters.
_NAMES = {
    "Inception-RN-v2": "inceptionresnetv2",
    "Wide-RN-40-10": "wideresnet",
    "StochD-RN-18": "stochasticdepth18",
    "StochD-RN-34": "stochasticdepth34",
    "StochD-RN-50": "stochasticdepth50",
    "StochD-RN-101": "stochasticdepth101",
}


def _read(line: str) -> Row:
    title, *figures = line.split()
    values = [float(figure) for figure in figures]
    return Row(title, *(Expected(*values[at : at + 4]) for at in (0, 4, 8)))


def _name(title: str) -> str:
    return _NAMES.get(title, title.lower().replace("-", ""))


# By the name in pytorch-cifar100.
PAPER_TABLE = {
    _name(row.title): row for row in map(_read, _FIGURES.strip().splitlines())
}
