"""What building an index needs: sources, decoding, the pipeline, and the build itself."""
