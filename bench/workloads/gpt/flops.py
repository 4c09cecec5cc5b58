"""Floating-point operations of an iteration."""

from __future__ import annotations

from bench.job.job import Job


def tflops(job: Job, sec_per_it: float) -> float:
    """TFLOPs per node, hardware FLOPs with recomputation: 96 B s l h^2 (1 + s/(6h) + V/(16 l h)) / (sec nodes 1e12).

    D. Narayanan et al., "Efficient Large-Scale Language Model Training on GPU Clusters Using Megatron-LM", SC'21,
    equation 3. Without activation checkpointing three passes in place of four, 72 B s l h^2 (1 + s/(6h) + V/(12 l h)): the head
    is never recomputed, so that its 6 B s h V stay. B is the global batch, V the padded vocabulary.
    """
    m = job.model
    factor = 96 if job.train.activation_checkpointing else 72
    head = m.padded_vocabulary / (factor / 6 * m.layers * m.hidden)
    layers = factor * job.train.global_batch_size * m.sequence * m.layers * m.hidden**2
    return layers * (1 + m.sequence / (6 * m.hidden) + head) / (sec_per_it * job.nodes * 1e12)
