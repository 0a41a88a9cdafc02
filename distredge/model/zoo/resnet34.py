"""ResNet-34."""

from __future__ import annotations

from distredge.model.zoo import ZooEntry
from distredge.model.zoo._resnet import BasicBlock, ResNet
from distredge.model.zoo.weights import initialised

ENTRY = ZooEntry(
    name="resnet34",
    task="image classification",
    input_shape=(1, 3, 224, 224),
    paper="He et al., Deep Residual Learning for Image Recognition, CVPR 2016",
    build=lambda: initialised(lambda: ResNet(BasicBlock, (3, 4, 6, 3))),
)
