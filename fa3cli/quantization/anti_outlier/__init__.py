"""AntiOutlier: rules that move outlier channels of activations into weights; one module a method, m1 to m6."""
