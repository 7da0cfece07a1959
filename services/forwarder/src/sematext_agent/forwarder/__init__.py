"""The forwarder: events of the stream, delivered to a destination."""
