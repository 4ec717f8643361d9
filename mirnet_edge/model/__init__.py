"""The PyTorch reference networks, MIRNet and MIRNet-v2, of any width and depth.

Written from the papers' descriptions and the published state-dict names, so that official
checkpoints load. Both networks: no bias in any convolution, no normalization layer, ``eval``
equals ``train``.

Imports nothing, so that `mirnet_edge.model.config` loads without torch.
"""
