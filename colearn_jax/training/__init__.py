"""Training: state, step, epoch, data placement, checkpoints, and the script that runs them."""
