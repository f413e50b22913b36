"""From a network and pictures to heatmaps and scores."""
