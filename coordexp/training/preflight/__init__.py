"""The pre-flight: losses and gradients of a run, each computed in two ways before step 1.

1. A small micro-batch (a picture or two per rank) as a whole window: by the training path, and by
   the formulas of losses/reference.py on the logits of the unwrapped model, under plain autograd.
2. The images of step 1 by the training path: cut into micro-batches as in training, and cut
   otherwise.
3. The loss of these images: by the training path, and by the evaluation path.

The training path is `step.accumulate`, with backward and the average over ranks; dropout is off.
(2) finds a fault that depends on the cut. A factor that every cut shares cancels there; (1) finds
it. Gradients are compared by norm and random projections. Nothing of the pre-flight remains: no
gradient, and modes and generators of random numbers are restored.

What it does not show: a fault that only other images or later steps have, or one in dropout.
"""
