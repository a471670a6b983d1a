"""Networks of the lecture, each written like the figure of its paper."""

from nnkernels.nn.models.alexnet import AlexNet
from nnkernels.nn.models.autoencoder import Autoencoder, ConvAutoencoder
from nnkernels.nn.models.char_rnn import CharRNN
from nnkernels.nn.models.gan import GAN, Discriminator, Generator
from nnkernels.nn.models.gcn import GCN
from nnkernels.nn.models.googlenet import GoogLeNet
from nnkernels.nn.models.lenet import LeNet5
from nnkernels.nn.models.mlp import MLP
from nnkernels.nn.models.resnet import ResNet18, ResNet34, ResNet50, ResNet101, ResNet152
from nnkernels.nn.models.resnet_cifar import CifarResNet, ResNet20, ResNet32, ResNet56
from nnkernels.nn.models.vae import VAE
from nnkernels.nn.models.vgg import VGG11, VGG16

__all__ = [
    "GAN", "GCN", "MLP", "VAE", "VGG11", "VGG16", "AlexNet", "Autoencoder", "CharRNN", "CifarResNet",
    "ConvAutoencoder", "Discriminator", "Generator", "GoogLeNet", "LeNet5", "ResNet18", "ResNet20",
    "ResNet32", "ResNet34", "ResNet50", "ResNet56", "ResNet101", "ResNet152",
]  # fmt: skip
