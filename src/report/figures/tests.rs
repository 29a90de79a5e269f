//! Figures of small runs whose tables are written here.
