"""What a model prefers: one direction per criterion and layer of the residual stream."""
