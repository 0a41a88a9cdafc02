"""Parameters and multiply-accumulates of the zoo's modules against published figures, without export or weights."""

from __future__ import annotations

from importlib import import_module
from math import prod

import pytest

from distredge.model import zoo
from distredge.model.load import load_model

torch = pytest.importorskip("torch")

TORCHVISION = "torchvision 0.2x model weights' metadata (num_params, _ops)"

# Parameters, GMACs of convolutions and fully connected layers, and where both were published.
SIZES = {
    "densenet121": (7_978_856, 2.834, TORCHVISION),
    # Of torchvision's GoogLeNet with 3x3 in place of 5x5; the 13,004,888 parameters that are sometimes given
    # count its auxiliary classifiers, which inference does without.
    "inception_v1": (6_624_904, 1.498, TORCHVISION),
    # torchvision states 27,161,264 parameters: with the auxiliary classifier, which has 3,326,696.
    "inception_v3": (23_834_568, 5.713, TORCHVISION),
    "mobilenet_v1": (4_231_976, 0.569, "Howard et al. 2017, table 8: 4.2 million parameters, 569 million mult-adds"),
    "mobilenet_v2": (3_504_872, 0.301, TORCHVISION),
    # No figure for the MACs at 368x368 was found: test_openpose_agrees_with_the_prototxt. The 160 GFLOPs that are
    # often given come with 26 million parameters: they seem to be those of CMU's later model of one branch.
    "openpose": (52_311_446, 135.934, "summaries of PyTorch ports; pose_iter_440000.caffemodel has 209 MB at 4 bytes"),
    "resnet101": (44_549_160, 7.801, TORCHVISION),
    "resnet18": (11_689_512, 1.814, TORCHVISION),
    "resnet34": (21_797_672, 3.664, TORCHVISION),
    "resnet50": (25_557_032, 4.089, TORCHVISION),
    "squeezenet1_1": (1_235_496, 0.349, TORCHVISION),
    # Nothing published was found: test_ssd_resnet50_agrees_with_nvidias_description.
    "ssd_resnet50": (22_894_902, 20.151, "worked out from DeepLearningExamples' PyTorch/Detection/SSD/ssd/model.py"),
    # Published as 31.44 GFLOPs, counted by torchstat: see test_ssd_vgg16_agrees_with_torchstat.
    "ssd_vgg16": (26_285_486, 31.374, "summaries of PyTorch ports of SSD300 for VOC by torchstat and torch-summary"),
    "vgg16": (138_357_544, 15.470, TORCHVISION),
    "vgg19": (143_667_240, 19.632, TORCHVISION),
    # Nothing published was found for the network without its feature encoder: test_voxelnet_agrees_with_the_paper.
    "voxelnet": (6_655_376, 283.528, "worked out from section 3.1 and figure 4 of the paper"),
    # Darknet's 29.475 BFLOPs count a MAC twice, and poolings: test_yolov2_agrees_with_darknet.
    "yolov2": (50_962_889, 14.732, "Keras's summary of yolov2.weights (YAD2K), 50,962,889 trainable; Darknet"),
}

OUTPUTS = {
    "openpose": [(1, 38, 46, 46), (1, 19, 46, 46)],
    "ssd_resnet50": [(1, 8732, 4), (1, 8732, 81)],
    "ssd_vgg16": [(1, 8732, 4), (1, 8732, 21)],
    "voxelnet": [(1, 2, 200, 176), (1, 14, 200, 176)],
    "yolov2": [(1, 425, 13, 13)],
}


class Counted:
    """A zoo model built and run on the meta device: shapes are worked out, nothing is computed."""

    def __init__(self, name: str, monkeypatch: pytest.MonkeyPatch) -> None:
        # Filling the weights would take seconds and gigabytes.
        monkeypatch.setattr(import_module(f"distredge.model.zoo.{name}"), "initialised", lambda build: build().eval())
        self.macs, self.biases, self.pooled, self.darknet_pooling = 0, 0, 0, 0
        entry = zoo.zoo_entry(name)
        with torch.device("meta"), torch.no_grad():
            self.model = entry.build()
            for module in self.model.modules():
                module.register_forward_hook(self._count)
            outputs = self.model(torch.empty(entry.input_shape))
        self.outputs = [tuple(x.shape) for x in (outputs if isinstance(outputs, tuple) else (outputs,))]
        self.params = sum(p.numel() for p in self.model.parameters())

    def _count(self, module: torch.nn.Module, inputs: tuple[torch.Tensor, ...], output: torch.Tensor) -> None:
        if isinstance(module, torch.nn.ConvTranspose2d):  # weights are (in, out / groups, height, width)
            self.macs += inputs[0].numel() * prod(module.weight.shape[1:])
        elif isinstance(module, (torch.nn.Conv2d, torch.nn.Conv3d, torch.nn.Linear)):
            self.macs += output.numel() * prod(module.weight.shape[1:])
            self.biases += output.numel() if module.bias is not None else 0
        elif isinstance(module, torch.nn.MaxPool2d):
            self.pooled += inputs[0].numel()
            self.darknet_pooling += output.numel() * 2 * 2


def conv(channels: int, out: int, kernel: int, places: int, norm: bool = True) -> tuple[int, int]:
    """Parameters and MACs of a convolution of `kernel` elements with batch norm, or else with a bias."""
    weights = channels * out * kernel
    return weights + out * (2 if norm else 1), weights * places


def total(convs: list[tuple[int, int]]) -> tuple[int, float]:
    return sum(params for params, _ in convs), round(sum(macs for _, macs in convs) / 1e9, 3)


def test_every_model_has_its_size() -> None:
    assert sorted(SIZES) == sorted(zoo.NAMES)


@pytest.mark.parametrize("name", sorted(SIZES))
def test_parameters_and_macs_are_the_published_ones(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    counted = Counted(name, monkeypatch)
    params, gmacs, _ = SIZES[name]
    assert (counted.params, round(counted.macs / 1e9, 3)) == (params, gmacs)
    assert counted.outputs == OUTPUTS.get(name, [(1, 1000)])


def test_yolov2_agrees_with_darknet(monkeypatch: pytest.MonkeyPatch) -> None:
    counted = Counted("yolov2", monkeypatch)
    stored = sum(t.numel() for n, t in counted.model.state_dict().items() if not n.endswith("num_batches_tracked"))
    assert 16 + 4 * stored == 203_934_260  # bytes of yolov2.weights: a header and all tensors, statistics too
    bflops = 2 * counted.macs / 1e9
    assert round(bflops + counted.darknet_pooling / 1e9, 3) == 29.475  # what AlexeyAB's Darknet prints at 416x416
    assert round(bflops * (608 / 416) ** 2, 2) == 62.94  # Redmon's page, at 608x608, of convolutions alone


def test_ssd_vgg16_agrees_with_torchstat(monkeypatch: pytest.MonkeyPatch) -> None:
    counted = Counted("ssd_vgg16", monkeypatch)
    activated = counted.biases - 8732 * (4 + 21)  # all convolutions but the heads' have a ReLU
    assert round((counted.macs + counted.biases + activated + counted.pooled) / 1e9, 2) == 31.44


def test_openpose_agrees_with_the_prototxt() -> None:
    backbone = [
        *[(3, 64, 368), (64, 64, 368), (64, 128, 184), (128, 128, 184), (128, 256, 92), *[(256, 256, 92)] * 3],
        *[(256, 512, 46), (512, 512, 46), (512, 256, 46), (256, 128, 46)],
    ]
    convs = [conv(channels, out, 9, side**2, norm=False) for channels, out, side in backbone]
    for out in (38, 19):
        first = [*[(128, 128, 9)] * 3, (128, 512, 1), (512, out, 1)]
        later = [(185, 128, 49), *[(128, 128, 49)] * 4, (128, 128, 1), (128, out, 1)]
        convs += [conv(*sizes, 46**2, norm=False) for sizes in (*first, *later * 5)]
    assert total(convs) == SIZES["openpose"][:2]


def test_ssd_resnet50_agrees_with_nvidias_description() -> None:
    convs = [conv(3, 64, 49, 150**2)]
    channels = 64
    for width, blocks, before, after in ((64, 3, 75, 75), (128, 4, 75, 38), (256, 6, 38, 38)):
        convs.append(conv(channels, 4 * width, 1, after**2))
        for i in range(blocks):
            convs.append(conv(channels, width, 1, (after if i else before) ** 2))
            convs += [conv(width, width, 9, after**2), conv(width, 4 * width, 1, after**2)]
            channels = 4 * width
    maps = [(1024, 38, 4), (512, 19, 6), (512, 10, 6), (256, 5, 6), (256, 3, 4), (256, 1, 4)]
    for (channels, before, _), (out, after, _), inner in zip(maps, maps[1:], (256, 256, 128, 128, 128), strict=False):
        convs += [conv(channels, inner, 1, before**2), conv(inner, out, 9, after**2)]
    convs += [conv(channels, boxes * (4 + 81), 9, side**2, norm=False) for channels, side, boxes in maps]
    assert total(convs) == SIZES["ssd_resnet50"][:2]


def test_voxelnet_agrees_with_the_paper() -> None:
    area = 400 * 352
    middle = [conv(128, 64, 27, 5 * area), conv(64, 64, 27, 3 * area), conv(64, 64, 27, 2 * area)]
    blocks = [
        *[conv(128, 128, 9, area // 4)] * 4,
        *[conv(128, 128, 9, area // 16)] * 6,
        conv(128, 256, 9, area // 64),
        *[conv(256, 256, 9, area // 64)] * 5,
    ]
    # Each input place of a transposed convolution meets each element of the kernel once.
    ups = [conv(128, 256, 9, area // 4), conv(128, 256, 4, area // 16), conv(256, 256, 16, area // 64)]
    heads = [conv(768, 2, 1, area // 4, norm=False), conv(768, 14, 1, area // 4, norm=False)]
    assert total([*middle, *blocks, *ups, *heads]) == SIZES["voxelnet"][:2]


@pytest.mark.parametrize("name", zoo.NAMES)
def test_the_import_counts_the_same(name: str) -> None:
    graph, (params, gmacs, _) = load_model(name), SIZES[name]
    assert graph.params == params
    assert round(graph.macs / 1e9, 3) == gmacs
    assert graph.task == zoo.zoo_entry(name).task
    assert [output.shape for output in graph.head.outputs] == OUTPUTS.get(name, [(1, 1000)])
