"""A prefill with the selection inside, as a graph of fixed shape: for torch.export, ONNX and OpenVINO."""
