"""ResNet-101 (version 1.5: the 3x3 convolution of a block carries its stride)."""

from __future__ import annotations

from distredge.model.zoo import ZooEntry
from distredge.model.zoo._resnet import Bottleneck, ResNet
from distredge.model.zoo.weights import initialised

ENTRY = ZooEntry(
    name="resnet101",
    task="image classification",
    input_shape=(1, 3, 224, 224),
    paper="He et al., Deep Residual Learning for Image Recognition, CVPR 2016",
    build=lambda: initialised(lambda: ResNet(Bottleneck, (3, 4, 23, 3))),
)
