"""Shapes that the tests calculate with; test_shape.py counts them on the models of their config.json."""

from jobs.estimate.shape import ModelShape

SMOLLM2_135M = ModelShape(30, 576, 9, 3, 64, 1536, 49152, True, 3_540_096, 28_312_128, 134_515_008)
LLAMA_2_7B = ModelShape(32, 4096, 32, 32, 128, 11008, 32000, False, 202_383_360, 262_148_096, 6_738_415_616)
LLAMA_3_8B = ModelShape(32, 4096, 32, 8, 128, 14336, 128256, False, 218_112_000, 1_050_677_248, 8_030_261_248)
LLAMA_3_70B = ModelShape(80, 8192, 64, 8, 128, 28672, 128256, False, 855_654_400, 2_101_354_496, 70_553_706_496)
