"""What a teacher thinks aloud and how it judges itself: questions, its chains of thought, its evaluations of them."""
