"""How a predictor is put on trial: asked everything, judged, reported."""
