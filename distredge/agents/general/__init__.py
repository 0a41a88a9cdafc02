"""One agent for any cluster and model: an attention policy that improves split decisions, trained on the simulator."""
