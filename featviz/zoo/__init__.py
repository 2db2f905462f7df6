"""Small networks to try featviz with: ResNets and VGGs for CIFAR, and a trained pair."""

from featviz.zoo.named import zoo_network as zoo_network
from featviz.zoo.pair import BundledPair as BundledPair
from featviz.zoo.pair import bundled_pair as bundled_pair
from featviz.zoo.resnet import CifarResNet as CifarResNet
from featviz.zoo.vgg import CifarVGG as CifarVGG
