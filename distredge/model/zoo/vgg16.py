"""VGG-16 (configuration D)."""

from __future__ import annotations

from distredge.model.zoo import ZooEntry
from distredge.model.zoo._vgg import VGG
from distredge.model.zoo.weights import initialised

_STAGES = ((64, 2), (128, 2), (256, 3), (512, 3), (512, 3))
"""Channels and convolutions of each stage."""

ENTRY = ZooEntry(
    name="vgg16",
    task="image classification",
    input_shape=(1, 3, 224, 224),
    paper="Simonyan and Zisserman, Very Deep Convolutional Networks for Large-Scale Image Recognition, ICLR 2015",
    build=lambda: initialised(lambda: VGG(_STAGES)),
)
