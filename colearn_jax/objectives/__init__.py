"""Loss functions: task loss, contrastive loss and modality-discriminative loss, as functions of arrays."""
