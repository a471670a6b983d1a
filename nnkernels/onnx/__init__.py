"""Networks as ONNX files, for other programs to run (the extra `onnx`).

A network is recorded as a list of calls (`nn/program.py`), and each op becomes one ONNX operator or a few, by
the table in `rules.py`. The file's initializers are the network's parameters and buffers under the keys of
its `state_dict`, bit for bit; `io.load` reads them back.
"""

from nnkernels.onnx.model import export

__all__ = ["export"]
