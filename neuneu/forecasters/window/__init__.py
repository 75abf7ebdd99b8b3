"""The forecasting network: encoders of the loss prompt, transformer, quantile heads."""
