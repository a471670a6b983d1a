"""What a network has learnt, and where it looks: for any Module, on images (N, C, H, W).

    what a layer holds and answers    filters, feature_maps
    what in the image a unit          gradient, deconvnet, guided_backprop; receptive_field: what it can see
      answers to                        at all
    which pixels make for a class     saliency, integrated_gradients, grad_cam, occlusion
    what a unit would like to see     activation_maximisation

A layer is named as in ``model.named_modules()``, "conv2" or "layer1.0.conv1"; "" is the network itself, whose
channels are the classes. A module that runs several times shows its last run. What comes back are arrays in
host memory, for ``nnkernels.plot`` or anything else to draw. The network runs in evaluation mode; its
parameters, gradients, modes and hooks are left as they were.
"""

from nnkernels.visualize.attribution import grad_cam, integrated_gradients, occlusion, saliency
from nnkernels.visualize.backward import deconvnet, gradient, guided_backprop
from nnkernels.visualize.fields import receptive_field
from nnkernels.visualize.maximise import activation_maximisation, total_variation
from nnkernels.visualize.units import feature_maps, filters

__all__ = [
    "activation_maximisation", "deconvnet", "feature_maps", "filters", "grad_cam", "gradient",
    "guided_backprop", "integrated_gradients", "occlusion", "receptive_field", "saliency", "total_variation",
]  # fmt: skip
