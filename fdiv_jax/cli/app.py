"""`fdiv-jax app`: the web page."""

from dataclasses import dataclass

__all__ = ["Command"]


@dataclass(frozen=True)
class Command:
    """Serve a web page: explore any divergence, unlearn a concept of the embedded world and watch it fade.

    Needs the extra `app`. The page is for this machine alone unless --host says otherwise.
    """

    host: str = "127.0.0.1"
    """Address to listen at; 0.0.0.0 is every address of this machine, so that others can open the page."""
    port: int = 7860
    """Port to listen at."""

    def run(self) -> None:
        """Serve until interrupted."""
        if not 1 <= self.port <= 65535:
            raise ValueError(f"--port must be from 1 to 65535, got {self.port}")
        from fdiv_jax.app import serve

        serve(self.host, self.port)
