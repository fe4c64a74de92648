"""Object detection: Faster R-CNN on PASCAL VOC, for the paper's Table 5."""
