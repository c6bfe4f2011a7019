"""What the project exists for: recorded runs of a stock model, partial recomputation, and edge scores from both.

Names are imported from the modules; nothing is imported here, so that reading results loads no torch.
"""
