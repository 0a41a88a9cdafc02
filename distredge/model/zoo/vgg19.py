"""VGG-19 (configuration E)."""

from __future__ import annotations

from distredge.model.zoo import ZooEntry
from distredge.model.zoo._vgg import VGG
from distredge.model.zoo.weights import initialised

_STAGES = ((64, 2), (128, 2), (256, 4), (512, 4), (512, 4))
"""Channels and convolutions of each stage."""

ENTRY = ZooEntry(
    name="vgg19",
    task="image classification",
    input_shape=(1, 3, 224, 224),
    paper="Simonyan and Zisserman, Very Deep Convolutional Networks for Large-Scale Image Recognition, ICLR 2015",
    build=lambda: initialised(lambda: VGG(_STAGES)),
)
