"""Loss functions: of the task, contrastive, and of modality heads."""
