"""The split MDP as Gymnasium and stable-baselines3 environments."""
