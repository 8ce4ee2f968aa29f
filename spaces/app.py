"""The page of fdiv-jax on a Hugging Face Space."""

from fdiv_jax.app import serve

if __name__ == "__main__":
    serve(host="0.0.0.0", port=7860)
