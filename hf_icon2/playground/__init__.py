"""A page to try steering on: sliders, three answers side by side, and how the model reads them. Needs gradio."""
