package main

func registerHeldOut() {}
