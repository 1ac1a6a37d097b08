"""Loss functions of arrays: the task's loss, and the terms that methods add to it (contrastive, ...)."""
