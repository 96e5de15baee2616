"""Provides pure tensor functions: quantization parameters, fake quantization, recall window, deq_scale packing."""
